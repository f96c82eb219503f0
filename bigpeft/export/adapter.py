"""The adapter alone: safetensors and JSON, nothing to unpickle.

`adapter/adapter.safetensors` holds every trained tensor in fp32 under `<layer>.<parameter>`, and
what methods keep frozen beside them;
`adapter/adapter.json` says which method made them and how.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bigpeft.checkpoint import training_state
from bigpeft.checkpoint.engine import Engine
from bigpeft.errors import FileError
from bigpeft.placement import Trained
from bigpeft.plan import Plan

TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"
_VERSION = 1


def save_adapter(folder: Path, trained: Sequence[Trained], plan: Plan, engine: Engine) -> None:
    """Write the adapter, all ranks together; the first one holds it whole for a moment."""
    state = training_state(engine)
    tensors = {}
    for item in trained:
        whole = state.read(item.parameter, None)
        if dist.get_rank() == 0:
            tensors[item.name] = whole.detach().float().cpu().clone()
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, tensors | frozen(plan), description(plan))
    dist.barrier()


def frozen(plan: Plan) -> dict[str, Tensor]:
    """What methods keep beside their parameters: singular vectors, norms, start factors.

    They come from the dense weight, which 4-bit codes cannot give back.
    """
    return {
        f"{layer}.{key}": buffer.detach().cpu().clone()
        for layer, method in plan.seated.items()
        for key, buffer in method.state_dict(keep_vars=True).items()
        if not isinstance(buffer, nn.Parameter)
    }


def description(plan: Plan) -> dict[str, Any]:
    """What adapter.json says."""
    model = plan.recipe.model
    return {
        "version": _VERSION,
        "method": plan.recipe.method.model_dump(mode="json"),
        "mpc": plan.recipe.mpc and plan.recipe.mpc.model_dump(mode="json"),
        "layers": sorted(plan.seated),
        "base": {
            "name": model.name,
            "model_type": plan.model.config.model_type,
            "trained_on": {"weights": model.weights, "block": model.block, "nested": model.nested},
        },
    }


def _write(folder: Path, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    temporary = folder / f"{TENSORS}.tmp"
    save_file(tensors, temporary)
    temporary.chmod(0o644)
    os.replace(temporary, folder / TENSORS)
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description. Raises FileError for a folder that is no whole adapter."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise FileError(
            str(folder), f"is no adapter ({error})", "point at the adapter folder of a finished run"
        ) from error
    if described.get("version") != _VERSION:
        raise FileError(
            str(folder / DESCRIPTION),
            f"has format version {described.get('version')}, this bigpeft reads {_VERSION}",
            "use the version of bigpeft that wrote it",
        )
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}, described
