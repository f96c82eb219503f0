"""The recipe's model without weights, and what the recipe wants on it, as values."""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from bigpeft.backbone import (
    RandomWeights,
    WeightSource,
    build_skeleton,
    fill_slots,
    freeze_linears,
    open_folder,
    read_config,
)
from bigpeft.errors import RecipeError
from bigpeft.placement import Placement
from bigpeft.plan.attention import choose_attention
from bigpeft.plan.folder import resolve_model_folder
from bigpeft.quant import Codec, CodecOptions, make_codec
from bigpeft.recipe import Model, Recipe
from bigpeft.recipe.sections import MethodSection


def build_model(
    recipe: Recipe, folder: Path | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, list[str]]:
    """The skeleton with packed linears, and the names of linears that stay dense."""
    wanted = recipe.model
    config = read_config(
        None if wanted.config is not None else folder,
        wanted.config,
        wanted.layers,
        wanted.trust_remote_code,
    )
    attention = choose_attention(wanted.attention, recipe.data.packing, config, dtype)
    model = build_skeleton(config, wanted.trust_remote_code, attention)
    _, dense = freeze_linears(model, codec_of(recipe, dtype))
    return model, dense


def codec_of(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Codec:
    """How frozen linears are packed; `dtype` is what `none` keeps."""
    wanted = recipe.model
    return make_codec(wanted.weights, CodecOptions(wanted.block, wanted.nested, dtype))


def bare_model(recipe: Recipe) -> PreTrainedModel:
    """The skeleton with nothing seated on it."""
    return build_model(recipe, resolve_model_folder(recipe.model), torch.float32)[0]


def open_weights(recipe: Recipe, folder: Path | None, model: PreTrainedModel) -> WeightSource:
    """Where the weights will come from, checked by the files' headers alone.

    Raises WeightError, the same on every rank, for files that are missing, cut off, or of another
    shape than the configuration says.
    """
    if folder is None or recipe.model.random:
        std = getattr(model.config, "initializer_range", 0.02)
        return RandomWeights(model, std, recipe.run.seed)
    source = open_folder(folder)
    fill_slots(model, source.shapes())
    source.check_codec(codec_of(recipe))
    return source


def model_to_pack(**wanted: Any) -> tuple[Path, PreTrainedModel, WeightSource]:
    """Folder, skeleton and weights of a model by the keys of a recipe's model section.

    Raises RecipeError for a value that no recipe may have, and for weights that are not packed.
    """
    try:
        section = Model(**wanted)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"--{'.'.join(map(str, first['loc']))}", first["msg"], "see bigpeft quantize --help"
        ) from error
    codec = make_codec(section.weights, CodecOptions(section.block, section.nested))
    if not codec.quantises:
        raise RecipeError("--weights", f"{codec.name} packs nothing", "write nf4 or fp4")
    folder = resolve_model_folder(section)
    assert folder is not None
    model = build_skeleton(
        read_config(folder, None, None, section.trust_remote_code), section.trust_remote_code
    )
    freeze_linears(model, codec)
    source = open_folder(folder)
    fill_slots(model, source.shapes())
    source.check_codec(codec)
    return folder, model, source


def placement_of(recipe: Recipe) -> Placement:
    """The method section as values."""
    section: MethodSection = recipe.method
    own = set(type(section).model_fields) - set(MethodSection.model_fields) - {"name"}
    return Placement(
        method=recipe.method.name,
        options={key: getattr(section, key) for key in own},
        target_modules=section.target_modules,
        overrides=section.overrides,
        train_modules=section.train_modules,
        mpc=recipe.mpc,
    )


def placement_for(recipe: Recipe, method: str) -> Placement:
    """As the recipe says for its own method; another one with its defaults everywhere."""
    return placement_of(recipe) if method == recipe.method.name else Placement(method)
