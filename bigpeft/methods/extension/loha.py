"""LoHa, the elementwise product of two low-rank matrices (Hyeon-Woo et al., arXiv 2108.06098).

    W' = W + (alpha / rank) · (B₁ A₁) ⊙ (B₂ A₂)

The product has rank rank² and factors that are products of rows: its down-projection has the rows
a₁ₚ ⊙ a₂ₛ, its up-projection the columns b₁ₚ ⊙ b₂ₛ. So no dense matrix is made, unlike in HF peft:
where rank² comes near to the sides of W, the rows are made in parts, and again in backward.

Trains 2 · rank · (in_features + out_features) numbers per linear. All factors start uniform
(Kaiming, a = √5) but A₂, which starts at zero: the start is the identity.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bigpeft.methods.algebra import at_least_fp32, down_up
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, numerator
from bigpeft.methods.shapes import refuse_rank_above_sides

_SHARE = 4
"""A part of the down- or up-projection has at most this fraction of W's numbers, or `rank` rows."""


class LoHa(LinearMethod):
    """An extension of rank rank² from two low-rank products."""

    class Options(MethodOptions):
        """Rank and scaling."""

        rank: PositiveInt = Field(8, description="inner dimension of each of the two products")
        alpha: PositiveFloat = Field(16, description="numerator of the scaling")

    family = "extension"
    source = "arXiv 2108.06098"
    moves = "the elementwise product of two changes of rank r, rank r² at most"
    when = "more rank for the same numbers as lora"
    hf_peft = "LOHA"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        refuse_rank_above_sides(linear, options.rank)
        self.scaling = options.alpha / options.rank
        down, up = (options.rank, linear.in_features), (linear.out_features, options.rank)
        self.first_A = nn.Parameter(torch.empty(down, device=linear.device))
        self.first_B = nn.Parameter(torch.empty(up, device=linear.device))
        self.second_A = nn.Parameter(torch.empty(down, device=linear.device))
        self.second_B = nn.Parameter(torch.empty(up, device=linear.device))

    def reset(self) -> None:
        """All uniform but A₂, which is zero."""
        super().reset()
        for factor in (self.first_A, self.first_B, self.second_B):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        y = linear.base(x)
        rank, smaller = len(self.first_A), min(linear.in_features, linear.out_features)
        part = max(1, smaller // (_SHARE * rank))
        for start in range(0, rank, part):
            update = checkpoint(
                _product,
                x,
                (self.first_A, self.first_B),
                (self.second_A, self.second_B),
                slice(start, start + part),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            y = y + self.scaling * update
        return y

    def merge(self, weight: Tensor) -> Tensor:
        """W + s · (B₁ A₁) ⊙ (B₂ A₂), same dtype."""
        wide = at_least_fp32(weight.dtype)
        first = self.first_B.to(wide) @ self.first_A.to(wide)
        second = self.second_B.to(wide) @ self.second_A.to(wide)
        return (weight + self.scaling * first * second).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoHa."""
        rank = len(self.first_A)
        tensors = {
            "hada_w1_a": self.first_B,
            "hada_w1_b": self.first_A,
            "hada_w2_a": self.second_B,
            "hada_w2_b": self.second_A,
        }
        layer = {"r": rank, "alpha": numerator(self.scaling, rank)}
        return [PeftForm("LOHA", tensors, layer=layer)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """2 · rank · (in_features + out_features)."""
        assert isinstance(options, LoHa.Options)
        return 2 * options.rank * (linear.in_features + linear.out_features)


def _product(
    x: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], part: slice
) -> Tensor:
    """(B₁ A₁) ⊙ (B₂ A₂) on x (..., in_features) in x.dtype, of these rows of A₁ alone."""
    down = torch.einsum("pi,qi->pqi", first[0][part], second[0]).flatten(0, 1)
    up = torch.einsum("op,oq->opq", first[1][:, part], second[1]).flatten(1)
    return down_up(x, down, up)
