"""A LoRA adapter of HF peft as one of bigpeft, for a run to start from (`method.start_from`)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from bigpeft.backbone.copies.writer import refuse_existing, unwritable
from bigpeft.checkpoint.adapter import VERSION, write_adapter
from bigpeft.checkpoint.peft_names import factor_of
from bigpeft.errors import FileError
from bigpeft.export.peft_folder import CONFIG, TENSORS
from bigpeft.placement import matches
from bigpeft.recipe import METHOD_SECTIONS

METHOD = "method.yaml"
_READ = frozenset(
    {
        "alpha_pattern",
        "base_model_name_or_path",
        "init_lora_weights",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "use_rslora",
    }
)
_NEUTRAL = frozenset(
    {
        "auto_mapping",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "task_type",
    }
)
"""Keys without a part in what the given tensors compute."""
_UNCHANGED_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base as it is."""
_FIX = "take a plain LoRA adapter, or merge this one into its base with peft and train on that"


@dataclass(frozen=True)
class Imported:
    """What was made of an adapter: `section` is the recipe's method section."""

    folder: Path
    section: dict[str, Any]
    layers: int


def import_peft(adapter: Path, out: Path) -> Imported:
    """Write `adapter`, a folder of HF peft, as an adapter folder of bigpeft, and its method.yaml.

    Numbers are kept, in fp32. Raises FileError for a folder that is damaged, that holds pickles, or
    whose adapter is more than LoRA.
    """
    refuse_existing(out)
    config = _config(adapter)
    factors = _factors(adapter / TENSORS)
    try:
        section = _section(adapter, config, factors)
    except re.error as error:
        raise FileError(
            str(adapter / CONFIG), f"has a broken pattern ({error})", "copy the adapter again"
        ) from error
    described = {
        "version": VERSION,
        "method": _checked(adapter, section),
        "mpc": None,
        "layers": sorted(factors),
        "base": {"name": config.get("base_model_name_or_path")},
    }
    tensors = {
        f"{layer}.{name}": tensor
        for layer, pair in factors.items()
        for name, tensor in pair.items()
    }
    section["start_from"] = str(out)
    try:
        out.mkdir(parents=True)
        (out / METHOD).write_text(method_yaml(section))
        write_adapter(out, tensors, described)
    except OSError as error:
        raise unwritable(out, error) from error
    return Imported(out, section, len(factors))


def _checked(adapter: Path, section: Mapping[str, Any]) -> dict[str, Any]:
    """The section with its defaults. Raises FileError for numbers that no recipe takes."""
    try:
        return METHOD_SECTIONS[section["name"]].model_validate(section).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FileError(
            str(adapter / CONFIG), f"has a wrong {where}: {first['msg']}", "copy the adapter again"
        ) from error


def method_yaml(section: Mapping[str, Any]) -> str:
    """The method section of a recipe."""
    return yaml.safe_dump({"method": dict(section)}, sort_keys=False)


def _config(adapter: Path) -> dict[str, Any]:
    """The configuration. Raises FileError where it says more than LoRA does here."""
    path = adapter / CONFIG
    try:
        config = json.loads(path.read_text())
        kind = config.get("peft_type")
    except (OSError, ValueError, AttributeError) as error:
        raise FileError(
            str(path), f"cannot be read ({error})", "point at a folder that HF peft has saved"
        ) from error
    if kind != "LORA":
        raise FileError(str(path), f"is an adapter of type {kind}, only LORA is imported", _FIX)
    if config.get("init_lora_weights", True) not in _UNCHANGED_BASE:
        raise FileError(
            str(path),
            f"belongs to a base that init_lora_weights {config['init_lora_weights']} has changed",
            "convert it with save_pretrained(path_initial_model_for_weight_conversion=...) of peft",
        )
    for key, value in config.items():
        if key not in _READ | _NEUTRAL and value and value != "none":
            raise FileError(str(path), f"has {key} {value!r}, which LoRA here has not", _FIX)
    return config


def _factors(path: Path) -> dict[str, dict[str, Tensor]]:
    """Layer → lora_A and lora_B in fp32."""
    if not path.is_file() and path.with_suffix(".bin").is_file():
        raise FileError(
            str(path.with_suffix(".bin")),
            "is a pickle, which may run code when it is opened",
            "have whoever made it save it with safe_serialization=True",
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise FileError(
            str(path), f"cannot be read ({error})", "copy or download the adapter again"
        ) from error
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        factor = factor_of(name)
        if factor is None or tensor.dim() != 2:
            shape = tuple(tensor.shape)
            raise FileError(str(path), f"holds {name} {shape}, no factor of LoRA", _FIX)
        found.setdefault(factor[0], {})[factor[1]] = tensor.float()
    for layer, pair in found.items():
        if len(pair) < 2 or len(pair["lora_A"]) != pair["lora_B"].shape[1]:
            raise FileError(
                str(path), f"holds no two factors that fit for {layer}", "copy the adapter again"
            )
    if not found:
        raise FileError(str(path), "holds no factors", "copy the adapter again")
    return dict(sorted(found.items()))


def _section(
    adapter: Path, config: Mapping[str, Any], factors: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Any]:
    rank, alpha = config.get("r", 8), config.get("lora_alpha", 8)
    overrides: dict[str, dict[str, Any]] = {}
    for layer, pair in factors.items():
        own = {
            "rank": _by_pattern(config.get("rank_pattern"), layer, rank),
            "alpha": _by_pattern(config.get("alpha_pattern"), layer, alpha),
        }
        if len(pair["lora_A"]) != own["rank"]:
            raise FileError(
                str(adapter / TENSORS),
                f"has rank {len(pair['lora_A'])} at {layer}, {CONFIG} says {own['rank']}",
                "take both files from one adapter",
            )
        if own != {"rank": rank, "alpha": alpha}:
            overrides[layer] = own
    section: dict[str, Any] = {
        "name": "rslora" if config.get("use_rslora") else "lora",
        "rank": rank,
        "alpha": alpha,
        "dropout": config.get("lora_dropout", 0.0),
        "target_modules": _targets(config, list(factors)),
    }
    return section | ({"overrides": overrides} if overrides else {})


def _targets(config: Mapping[str, Any], layers: list[str]) -> str | list[str]:
    """peft's own patterns where they are all that chose the layers, else the layers."""
    said = config.get("target_modules")
    chosen = [config.get(key) for key in ("layers_to_transform", "exclude_modules")]
    if said is None or any(chosen):
        return layers
    if said == "all-linear":
        return said
    patterns = [said] if isinstance(said, str) else sorted(said)
    covered = all(any(matches(pattern, layer) for pattern in patterns) for layer in layers)
    return (said if isinstance(said, str) else patterns) if covered else layers


def _by_pattern(patterns: Mapping[str, Any] | None, layer: str, default: Any) -> Any:
    """The value of the first pattern that means this layer, as peft reads them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default
