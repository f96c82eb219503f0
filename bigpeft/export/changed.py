"""What a run made of a tensor of its base."""

from typing import Literal

import torch
from torch import Tensor

from bigpeft.backbone.slots import Slot
from bigpeft.errors import RecipeError
from bigpeft.export.run import FinishedRun
from bigpeft.methods import LinearMethod

Base = Literal["dense", "image"]


@torch.no_grad()
def changed(
    run: FinishedRun,
    slot: Slot,
    tensor: Tensor,
    base: Base = "dense",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """W' for the W in this slot, computed in `dtype`; a tensor that the run left alone comes back.

    `base` image takes what the codes of W decode to in place of W.
    """
    for name in slot.names:
        if name in run.dense:
            return run.dense[name]
    if slot.linear is None or slot.linear.name not in run.seated:
        return tensor
    linear, method = slot.linear, run.seated[slot.linear.name]
    assert isinstance(method, LinearMethod)
    weight = (tensor.t().contiguous() if linear.transposed else tensor).to(dtype)
    if method.edits_base:
        kept = {key: value.clone() for key, value in method.state_dict().items()}
        weight = method.start(weight)
        method.load_state_dict(kept)
    if base == "image":
        codec = linear.base.codec
        weight = codec.decode(codec.encode(weight), linear.base.shape, dtype)
    merged = method.merge(weight)
    return merged.t().contiguous() if linear.transposed else merged


def refuse_unmergeable(run: FinishedRun) -> None:
    """Raise RecipeError where a method of the run computes what no weight can hold."""
    for seat, method in run.seated.items():
        if not isinstance(method, LinearMethod) or not method.mergeable:
            raise RecipeError(
                f"method.name: {run.recipe.method.name}",
                f"computes at {seat} what no weight can hold, so it does not merge",
                "use the adapter beside the base",
            )
