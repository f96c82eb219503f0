"""LoKr, a Kronecker product as the update (Yeh et al., LyCORIS, arXiv 2309.14859).

    W' = W + (alpha / rank) · C ⊗ D        C (o₁, i₁), D (o₂, i₂), o₁ o₂ = out, i₁ i₂ = in

The sides are split as evenly as their divisors allow, the smaller part to C, or as close to
`factor` as they do. D is B A of that rank where the rank is below half of its larger side, else
whole. Only C and D are made, never their product. C starts at zero, the rest uniform (Kaiming,
a = √5), so the start is the identity. As in HF peft the scaling stays alpha / rank for a whole D.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32, down_up
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, numerator


class LoKr(LinearMethod):
    """A Kronecker product of a small matrix and a large, perhaps low-rank one."""

    class Options(MethodOptions):
        """Rank, scaling, and how the sides are split."""

        rank: PositiveInt = Field(8, description="rank of the larger factor")
        alpha: PositiveFloat = Field(16, description="numerator of the scaling")
        factor: PositiveInt | None = Field(
            None, description="wanted side of the smaller factor; default: as even as possible"
        )

    family = "extension"
    source = "arXiv 2309.14859"
    moves = "a Kronecker product with a small factor, of high rank with repeated structure"
    when = "a very small adapter of high rank"
    hf_peft = "LOKR"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        self.options, self.scaling = options, options.alpha / options.rank
        (out_1, out_2), (in_1, in_2) = _sides(linear, options)
        device = linear.device
        self.small = nn.Parameter(torch.empty(out_1, in_1, device=device))
        self.whole = _is_whole(out_2, in_2, options.rank)
        if self.whole:
            self.large = nn.Parameter(torch.empty(out_2, in_2, device=device))
        else:
            self.large_A = nn.Parameter(torch.empty(options.rank, in_2, device=device))
            self.large_B = nn.Parameter(torch.empty(out_2, options.rank, device=device))

    def reset(self) -> None:
        """C zero, the rest uniform."""
        for name, parameter in self.named_parameters():
            if name == "small":
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        parts = x.unflatten(-1, (self.small.shape[1], -1))
        if self.whole:
            parts = F.linear(parts, self.large.to(x.dtype))
        else:
            parts = down_up(parts, self.large_A, self.large_B)
        mixed = (self.small.to(x.dtype) @ parts).flatten(-2)
        return linear.base(x) + self.scaling * mixed

    def merge(self, weight: Tensor) -> Tensor:
        """W + s · C ⊗ D, same dtype."""
        wide = at_least_fp32(weight.dtype)
        large = self.large if self.whole else self.large_B.to(wide) @ self.large_A.to(wide)
        delta = torch.kron(self.small.to(wide), large.to(wide))
        return (weight + self.scaling * delta).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoKr, which splits sides and rounds ranks up to whole factors as this does."""
        tensors = {"lokr_w1": self.small}
        if self.whole:
            tensors["lokr_w2"] = self.large
        else:
            tensors |= {"lokr_w2_a": self.large_B, "lokr_w2_b": self.large_A}
        rank, factor = self.options.rank, self.options.factor
        layer = {"r": rank, "alpha": numerator(self.scaling, rank)}
        return [PeftForm("LOKR", tensors, {"decompose_factor": factor or -1}, layer)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """o₁ i₁ + rank · (o₂ + i₂), or o₁ i₁ + o₂ i₂."""
        assert isinstance(options, LoKr.Options)
        (out_1, out_2), (in_1, in_2) = _sides(linear, options)
        whole = _is_whole(out_2, in_2, options.rank)
        return out_1 * in_1 + (out_2 * in_2 if whole else options.rank * (out_2 + in_2))


def _is_whole(rows: int, columns: int, rank: int) -> bool:
    return 2 * rank >= max(rows, columns)


def _sides(linear: FrozenLinear, options: LoKr.Options) -> tuple[tuple[int, int], tuple[int, int]]:
    return split(linear.out_features, options.factor), split(linear.in_features, options.factor)


def split(features: int, factor: int | None) -> tuple[int, int]:
    """`factor` and the rest, where it divides; else the most even two divisors with this product.

    The first is the smaller one, and no larger than a `factor` that does not divide.
    """
    if factor is not None and features % factor == 0:
        return factor, features // factor
    limit = min(math.isqrt(features), factor or features)
    first = next(n for n in range(limit, 0, -1) if features % n == 0)
    return first, features // first
