"""Which keys of a DeepSpeed fragment the recipe owns, and what cannot be done with packed weights.

Everything is judged by the file alone, so a plan made on a laptop refuses what a cluster would.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bigpeft.backbone.partition import HPZ
from bigpeft.errors import FileError, RecipeError

_OWNED_BY_RECIPE = {
    "train_batch_size": "batch.global_size",
    "train_micro_batch_size_per_gpu": "batch.micro_size",
    "gradient_accumulation_steps": "batch.global_size (it is derived)",
    "gradient_clipping": "optimizer.clip",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "activation_checkpointing": "train.activation_checkpointing",
}

_REFUSED = {
    "zero_quantized_weights": (
        "quantises what is gathered, and packed bytes are codes already",
        "remove it: model.weights=nf4 sends a quarter of bf16",
    ),
    "zero_quantized_nontrainable_weights": (
        "quantises frozen weights as it cuts them, and packed bytes are codes already",
        "remove it: model.weights=nf4 keeps a quarter of bf16",
    ),
    "zero_quantized_gradients": (
        "quantises gradients, of which adapters have few",
        "remove it",
    ),
    "zenflow": ("splits DeepSpeed's own CPU Adam, which is not used here", "remove it"),
}


def check_fragment(path: Path, content: Any) -> None:
    """Raises FileError for what is no fragment, RecipeError for a key that cannot be used."""
    zero = content.get("zero_optimization") if isinstance(content, dict) else None
    if not isinstance(zero, dict) or zero.get("stage", 0) not in (0, 1, 2, 3):
        raise FileError(
            str(path),
            "has no zero_optimization section with a stage from 0 to 3",
            "start from a file of ds_configs/",
        )
    for key in content:
        if key in _OWNED_BY_RECIPE:
            raise RecipeError(
                f"{path}: {key}", "belongs to the recipe", f"set {_OWNED_BY_RECIPE[key]} there"
            )
    for key, (why, fix) in _REFUSED.items():
        value = zero.get(key)
        if value is True or (value and value != 1):
            raise RecipeError(f"{path}: zero_optimization.{key}", why, fix)
    if zero.get(HPZ, 1) != 1:
        _refuse_without_effect(path, zero, HPZ, least_stage=3)
    _check_offload(path, zero, "offload_optimizer", least_stage=1)
    _check_offload(path, zero, "offload_param", least_stage=3)


def offloads(zero: Mapping[str, Any], key: str) -> bool:
    """Whether this section of a fragment moves anything off the GPU."""
    return (zero.get(key) or {}).get("device", "none") != "none"


def _check_offload(path: Path, zero: Mapping[str, Any], key: str, least_stage: int) -> None:
    if not offloads(zero, key):
        return
    _refuse_without_effect(path, zero, key, least_stage)
    section, where = zero[key], f"{path}: zero_optimization.{key}"
    if section["device"] == "nvme":
        _check_nvme(where, key, section, stage=zero.get("stage", 0))
    for name, plain in _CPU_ADAM.items():
        if section.get(name, plain) != plain:
            raise RecipeError(
                f"{where}.{name}",
                "needs DeepSpeed's own CPU Adam, which is not used here",
                f"remove {name}",
            )


def _refuse_without_effect(path: Path, zero: Mapping[str, Any], key: str, least_stage: int) -> None:
    stage = zero.get("stage", 0)
    if stage < least_stage:
        raise RecipeError(
            f"{path}: zero_optimization.{key}",
            f"has no effect at stage {stage}",
            f"write stage {least_stage}, or remove it",
        )


_CPU_ADAM = {"ratio": 1.0, "super_offload": False}


def _check_nvme(where: str, key: str, section: Mapping[str, Any], stage: int) -> None:
    if key == "offload_param":
        raise RecipeError(
            f"{where}.device",
            "nvme swaps numbers of one floating-point type, and packed weights are bytes",
            "write cpu, or let more ranks share the backbone with sharding.group",
        )
    if stage < 3:
        raise RecipeError(f"{where}.device", "nvme needs stage 3", "write stage 3, or cpu")
    if not section.get("nvme_path"):
        raise RecipeError(
            f"{where}.nvme_path", "is missing", "write a folder of each node's own drive"
        )
