"""Spectral Adapter, additive: the largest singular vectors move (Zhang & Pilanci, 2405.13952).

    W' = W + (U + P) Σ (V + Q)ᵀ - U Σ Vᵀ = W + P Σ (V + Q)ᵀ + U Σ Qᵀ

U, Σ, V are the largest singular triplets of the dense W, P (out_features, rank) and Qᵀ
(rank, in_features) are trained from zero: rank · (in_features + out_features) numbers per linear,
and the start is the identity. There is no alpha: Σ scales the gradients, so the learning rate wants
to be smaller than LoRA's (10⁻⁵ in the authors' Llama 3 runs).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora
from bigpeft.methods.spectral import Spectral, SpectralOptions


class SpectralAdditive(Spectral):
    """Trained offsets on the largest singular vectors, left and right."""

    Options = SpectralOptions
    family = "combination"
    source = "arXiv 2405.13952"
    moves = "the r largest singular vectors of W, both sides; the rest of W stays"
    when = "fine changes of the strongest directions, with a small learning rate"
    hf_peft = "LORA of rank 2 · rank"
    learning_rate = 2e-5
    learning_rate_source = "between the authors' scripts, 1e-5 and 1e-4"

    def __init__(self, linear: FrozenLinear, options: SpectralOptions) -> None:
        super().__init__(linear, options.rank, options.iterations)
        self.offset_left = nn.Parameter(torch.empty_like(self.left))
        self.offset_right = nn.Parameter(torch.empty_like(self.right))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        dtype = x.dtype
        moved = F.linear(x, self.offset_right.to(dtype))
        whole = F.linear(x, self.right.to(dtype)) + moved
        values = self.values.to(dtype)
        left = F.linear(whole * values, self.offset_left.to(dtype))
        return linear.base(x) + left + F.linear(moved * values, self.left.to(dtype))

    def merge(self, weight: Tensor) -> Tensor:
        """W + (U + P) Σ (V + Q)ᵀ - U Σ Vᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        left, right = self.left.to(wide) * self.values.to(wide), self.right.to(wide)
        moved = left + self.offset_left.to(wide) * self.values.to(wide)
        delta = moved @ (right + self.offset_right.to(wide)) - left @ right
        return (weight + delta).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA of twice the rank: P Σ (V + Q)ᵀ and U Σ Qᵀ."""
        values = self.values.double()[:, None]
        moved = self.offset_right.double()
        a = torch.cat([values * (self.right.double() + moved), values * moved])
        return [lora(a, torch.cat([self.offset_left, self.left], dim=1))]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features)."""
        assert isinstance(options, SpectralOptions)
        return options.rank * (linear.in_features + linear.out_features)
