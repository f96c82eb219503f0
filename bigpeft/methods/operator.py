"""What a method sees of the frozen linear that it sits on: an operator, nothing else."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


class BaseProduct(Protocol):
    """x (..., in_features) → x Wᵀ (..., out_features) in x.dtype, differentiable in x."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


@runtime_checkable
class FrozenLinear(Protocol):
    """A frozen weight W (out_features, in_features) of which only products are available.

    `base(x)` is x Wᵀ without the bias; rows may be scaled, rotated or appended before the call.
    How W is stored, on which ranks, and the bias stay hidden.
    """

    name: str
    in_features: int
    out_features: int

    @property
    def base(self) -> BaseProduct: ...

    @property
    def device(self) -> torch.device: ...
