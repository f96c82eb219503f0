"""The adapter alone: safetensors and JSON, nothing to unpickle.

`adapter/adapter.safetensors` holds every trained tensor in fp32 under `<layer>.<parameter>`, and
what methods keep frozen beside them; `adapter/adapter.json` says which method made them and how;
`adapter/base.json` is the fingerprint of the model that they belong to.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bigpeft.backbone import Fingerprint
from bigpeft.checkpoint import training_state
from bigpeft.checkpoint.adapter import (
    BASE,
    TENSORS,
    VERSION,
    read_adapter,
    read_base,
    write_adapter,
)
from bigpeft.checkpoint.engine import Engine
from bigpeft.placement import Trained, frozen
from bigpeft.plan import Plan

__all__ = ["TENSORS", "description", "read_adapter", "read_base", "save_adapter"]


def save_adapter(
    folder: Path,
    trained: Sequence[Trained],
    plan: Plan,
    engine: Engine,
    base: Fingerprint,
    started_from: str,
) -> None:
    """Write the adapter, all ranks together; the first one holds it whole for a moment.

    `base` and `started_from`: which weights the run stood on, and whether methods that start from
    W have seen them dense or an image.
    """
    state = training_state(engine)
    tensors = {}
    for item in trained:
        whole = state.read(item.parameter, None)
        if dist.get_rank() == 0:
            tensors[item.name] = whole.detach().float().cpu().clone()
    if dist.get_rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        said = description(plan)
        kept = {name: t.detach().cpu().clone() for name, t in frozen(plan.seated).items()}
        said["base"] |= {"fingerprint": base.short, "started_from": started_from}
        (folder / BASE).write_text(json.dumps(base.as_json()) + "\n")
        write_adapter(folder, tensors | kept, said)
    dist.barrier()


def description(plan: Plan) -> dict[str, Any]:
    """What adapter.json says."""
    model = plan.recipe.model
    return {
        "version": VERSION,
        "method": plan.recipe.method.model_dump(mode="json"),
        "mpc": plan.recipe.mpc and plan.recipe.mpc.model_dump(mode="json"),
        "layers": sorted(plan.seated),
        "base": {
            "name": model.name,
            "model_type": plan.model.config.model_type,
            "trained_on": {"weights": model.weights, "block": model.block, "nested": model.nested},
        },
    }
