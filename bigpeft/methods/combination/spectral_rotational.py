"""Spectral Adapter, rotational: the largest singular vectors turn (Zhang & Pilanci, 2405.13952).

    W' = W + U [R_left · diag((1 + scale) ⊙ σ) · R_rightᵀ - Σ] Vᵀ

U, Σ, V are the largest singular triplets of the dense W. R = (I - Q)(I + Q)⁻¹ is the Cayley map of
the skew part Q of a trained (rank, rank) matrix, computed in at least fp32. The scale of σ is that
of the authors' code. Trains 2 · rank² + rank numbers per linear, of which rank² count, and starts
as the identity.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32, cayley
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora
from bigpeft.methods.spectral import Spectral, SpectralOptions


class SpectralRotational(Spectral):
    """Trained rotations of the largest singular vectors, and scales of their values."""

    Options = SpectralOptions
    family = "combination"
    source = "arXiv 2405.13952"
    moves = "rotations among the r largest singular vectors; no new direction"
    when = "almost no numbers, and the strongest directions only have to turn"
    learning_rate = 1e-3
    learning_rate_source = "benchmarks/learn.py"
    hf_peft = "LORA, the core in A"

    def __init__(self, linear: FrozenLinear, options: SpectralOptions) -> None:
        super().__init__(linear, options.rank, options.iterations)
        square = (options.rank, options.rank)
        self.turn_left = nn.Parameter(torch.empty(square, device=linear.device))
        self.turn_right = nn.Parameter(torch.empty(square, device=linear.device))
        self.scale = nn.Parameter(torch.empty_like(self.values))

    def core(self, dtype: torch.dtype) -> Tensor:
        """R_left diag((1 + scale) ⊙ σ) R_rightᵀ - Σ (rank, rank) in this dtype."""
        values = self.values.to(dtype)
        left = cayley(_skew_part(self.turn_left.to(dtype)))
        right = cayley(_skew_part(self.turn_right.to(dtype)))
        return (left * (1 + self.scale.to(dtype)) * values) @ right.t() - torch.diag(values)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        core = self.core(at_least_fp32(x.dtype)).to(x.dtype)
        turned = F.linear(F.linear(x, self.right.to(x.dtype)), core)
        return linear.base(x) + F.linear(turned, self.left.to(x.dtype))

    def merge(self, weight: Tensor) -> Tensor:
        """W + U core Vᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        delta = self.left.to(wide) @ self.core(wide) @ self.right.to(wide)
        return (weight + delta).to(weight.dtype)

    def role(self, parameter: str) -> Role:
        """Scales are never decayed."""
        return Role(parameter, decay=parameter != "scale")

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA with A = core Vᵀ and B = U."""
        return [lora(self.core(torch.float64) @ self.right.double(), self.left)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """2 · rank² + rank."""
        assert isinstance(options, SpectralOptions)
        return 2 * options.rank**2 + options.rank


def _skew_part(matrix: Tensor) -> Tensor:
    return (matrix - matrix.t()) / 2
