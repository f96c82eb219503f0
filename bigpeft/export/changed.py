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
    packed: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """W' for the W in this slot, computed in `dtype`; a tensor that the run left alone comes back.

    `base` image takes what the codes of W decode to in place of W, be it changed or not; `packed`
    are these codes where the run's base has them, and then `tensor` is not looked at.
    """
    for name in slot.names:
        if name in run.dense:
            return run.dense[name]
    linear = slot.linear
    method = run.seated.get(linear.name) if linear is not None else None
    if linear is None or (method is None and base == "dense"):
        return tensor
    assert method is None or isinstance(method, LinearMethod)
    codec = linear.base.codec
    if packed is not None:
        weight = codec.decode(packed, linear.base.shape, dtype)
    else:
        weight = linear.turned(tensor).to(dtype)
    if method is not None and method.edits_base:
        kept = {key: value.clone() for key, value in method.state_dict().items()}
        weight, packed = method.start(weight), None
        method.load_state_dict(kept)
    if base == "image" and packed is None:
        weight = codec.decode(codec.encode(weight), linear.base.shape, dtype)
    return linear.turned(weight if method is None else method.merge(weight))


def refuse_unmergeable(run: FinishedRun) -> None:
    """Raise RecipeError where a method of the run computes what no weight can hold."""
    for seat, method in run.seated.items():
        if not isinstance(method, LinearMethod) or not method.mergeable:
            raise RecipeError(
                f"method.name: {run.recipe.method.name}",
                f"computes at {seat} what no weight can hold, so it does not merge",
                "use the adapter beside the base",
            )
