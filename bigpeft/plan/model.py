"""The recipe's model without weights, and what the recipe wants on it, as values."""

from pathlib import Path

import torch
from transformers import PreTrainedModel

from bigpeft.backbone import (
    RandomWeights,
    SafetensorsFolder,
    WeightSource,
    build_skeleton,
    fill_slots,
    freeze_linears,
    read_config,
)
from bigpeft.placement import Placement
from bigpeft.plan.folder import resolve_model_folder
from bigpeft.quant import CodecOptions, make_codec
from bigpeft.recipe import Recipe
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
    model = build_skeleton(config, wanted.trust_remote_code)
    codec = make_codec(wanted.weights, CodecOptions(wanted.block, wanted.nested, dtype))
    _, dense = freeze_linears(model, codec)
    return model, dense


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
    source = SafetensorsFolder(folder)
    fill_slots(model, source.shapes())
    return source


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
