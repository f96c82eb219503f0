"""Methods that keep the largest singular triplets of W: U (out_features, k), σ (k), Vᵀ (k, in).

The triplets are those of the dense W, taken before it is quantised, and stay frozen in fp32.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32, top_singular
from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora
from bigpeft.methods.shapes import refuse_rank_above_sides


class SvdOptions(MethodOptions):
    """How singular triplets are found."""

    iterations: NonNegativeInt | None = Field(
        None,
        description="power iterations of a randomised SVD; 0 is exact, and slow on large layers; "
        "null is exact up to a smaller side of 1024 and 4 beyond",
    )


class SpectralOptions(SvdOptions):
    """Options of a method in the span of the largest singular vectors."""

    rank: PositiveInt = Field(8, description="r, how many singular triplets take part")


def hold_triplets(method: nn.Module, linear: FrozenLinear, rank: int) -> None:
    """Give the method the buffers `left`, `values` and `right` for so many triplets of W."""
    device = linear.device
    method.register_buffer("left", torch.empty(linear.out_features, rank, device=device))
    method.register_buffer("values", torch.empty(rank, device=device))
    method.register_buffer("right", torch.empty(rank, linear.in_features, device=device))


def fill_triplets(method: nn.Module, weight: Tensor, iterations: int | None) -> None:
    """Write the largest triplets of dense W into these buffers."""
    held = [method.get_buffer(name) for name in ("left", "values", "right")]
    for buffer, found in zip(held, top_singular(weight, len(held[1]), iterations), strict=True):
        buffer.copy_(found)


class Spectral(LinearMethod):
    """Holds the triplets as the buffers `left`, `values` and `right`."""

    needs_dense = True
    hf_peft: ClassVar[str] = "LORA"

    def __init__(self, linear: FrozenLinear, rank: int, iterations: int | None) -> None:
        super().__init__()
        refuse_rank_above_sides(linear, rank)
        self.iterations = iterations
        self.left: Tensor
        self.values: Tensor
        self.right: Tensor
        hold_triplets(self, linear, rank)

    def start(self, weight: Tensor) -> Tensor:
        """Factor dense W; W itself is frozen."""
        fill_triplets(self, weight, self.iterations)
        return weight


class ShiftOptions(SvdOptions):
    """Options of a method that moves singular values."""

    directions: PositiveInt = Field(
        256, description="how many of the largest singular values move; a smaller W moves all"
    )
    learning_rate_scale: PositiveFloat = Field(
        10, description="singular values want a larger learning rate than low-rank factors"
    )


class SingularShift(Spectral):
    """Base of methods that move singular values: W' = W + U diag(shift) Vᵀ."""

    learning_rate: ClassVar[float] = 1e-4
    learning_rate_source: ClassVar[str] = "arXiv 2303.11305 (SVDiff), × 10 for singular values"
    hf_peft: ClassVar[str] = "LORA of rank `directions`"
    Options = ShiftOptions

    def __init__(self, linear: FrozenLinear, options: ShiftOptions) -> None:
        super().__init__(linear, self.count(options, linear), options.iterations)
        self.learning_rate_scale = options.learning_rate_scale
        self.offset = nn.Parameter(torch.empty_like(self.values))

    @abstractmethod
    def shift(self, dtype: torch.dtype) -> Tensor:
        """How far each singular value moves, (directions), in this dtype."""

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        shift = self.shift(at_least_fp32(x.dtype)).to(x.dtype)
        return linear.base(x) + F.linear(
            F.linear(x, self.right.to(x.dtype)) * shift, self.left.to(x.dtype)
        )

    def merge(self, weight: Tensor) -> Tensor:
        """W + U diag(shift) Vᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        delta = (self.left.to(wide) * self.shift(wide)) @ self.right.to(wide)
        return (weight + delta).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA over the frozen singular vectors, the shifts in A."""
        moved = self.shift(torch.float64)[:, None] * self.right.double()
        return [lora(moved, self.left)]

    def role(self, parameter: str) -> Role:
        """Singular values: no decay, their own learning rate."""
        return Role(parameter, learning_rate_scale=self.learning_rate_scale, decay=False)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """min(directions, in_features, out_features)."""
        assert isinstance(options, ShiftOptions)
        return min(options.directions, linear.in_features, linear.out_features)
