"""The model without its weights: built on the meta device from a configuration alone."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from bigpeft.errors import FileError, RecipeError


def read_config(
    folder: Path | None, inline: dict[str, Any] | None, layers: int | None, trust: bool
) -> PretrainedConfig:
    """The configuration in `folder`/config.json, or the inline one, cut to `layers` layers.

    Raises FileError for a folder without config.json, RecipeError for a configuration that
    transformers does not know.
    """
    if inline is None:
        if folder is None:
            raise TypeError("a configuration comes from a folder or from the recipe")
        path = folder / "config.json"
        if not path.is_file():
            raise FileError(
                str(folder), "has no config.json", "point model.name at a Hugging Face model folder"
            )
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise FileError(
                str(path), f"is not JSON ({error})", "download the model again"
            ) from error
    else:
        values = dict(inline)
    try:
        if folder is not None and inline is None:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        else:
            config = AutoConfig.for_model(**values)
    except (ValueError, KeyError, TypeError, OSError) as error:
        kind = values.get("model_type")
        raise RecipeError(
            "model",
            f"has a configuration that transformers cannot read (model_type {kind!r}: {error})",
            "use a model of the installed transformers, or model.trust_remote_code: true",
        ) from error
    if getattr(config, "quantization_config", None) is not None:
        delattr(config, "quantization_config")  # the weights' source knows; the skeleton is dense
    if layers is not None:
        _cut(config, layers)
    return config


def _cut(config: PretrainedConfig, layers: int) -> None:
    have = config.num_hidden_layers
    if layers > have:
        raise RecipeError(
            "model.layers", f"{layers} is more than the model has", f"write {have} or less"
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def build_skeleton(
    config: PretrainedConfig, trust: bool = False, attention: str | None = None
) -> PreTrainedModel:
    """The causal language model of this configuration with every tensor on the meta device.

    `attention` is an implementation by transformers' name, None what it takes by itself. Raises
    RecipeError for an attention that the model or this machine has not, for a model that is no
    causal language model, and for one whose experts are fused into three-dimensional parameters
    that no codec here packs.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, trust_remote_code=trust, attn_implementation=attention
            )
    except (ValueError, KeyError) as error:
        raise RecipeError(
            "model",
            f"cannot be built as a causal language model ({error})",
            "choose a decoder model such as Llama, Qwen, Mistral, Gemma, GPT-2 or Phi",
        ) from error
    _refuse_stacked_weights(model)
    model.config.use_cache = False
    return model


def _refuse_stacked_weights(model: nn.Module) -> None:
    """Weights of three dimensions are no linears: packing would leave them dense."""
    stacked = {name: p for name, p in model.named_parameters() if p.dim() == 3}
    if stacked:
        name, parameter = next(iter(stacked.items()))
        gigabytes = 2 * sum(p.numel() for p in stacked.values()) / 1e9
        kind, such, fix = (
            (
                "is a mixture of experts",
                "fused",
                "fused experts are not supported; choose a dense model",
            )
            if "expert" in name
            else ("has layers that are no linears", "such", "choose a decoder built of linears")
        )
        raise RecipeError(
            "model",
            f"{kind}: {name} {tuple(parameter.shape)} and {len(stacked) - 1} more "
            f"{such} weights would stay dense, {gigabytes:.2f} GB in 16 bits",
            fix,
        )


def rebuild_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Recompute what is in no file: rotary frequencies, causal masks and the like.

    Parameters must still be on meta, where the library's initialisation leaves them alone.
    """
    stale = {
        name.rpartition(".")[0]
        for name, buffer in model.named_non_persistent_buffers()
        if buffer.device.type == "meta"
    }
    for name in sorted(stale):
        module = model.get_submodule(name)
        for key, buffer in module.named_buffers(recurse=False):
            if key in module._non_persistent_buffers_set:
                module._buffers[key] = torch.empty_like(buffer, device=device)
        model._init_weights(module)
