"""LoRA-XS, a small matrix between frozen singular vectors (Bałazy et al., arXiv 2405.17604).

    W' = W + (alpha / rank) · U core Σ Vᵀ        core (rank, rank)

U, Σ, V are the largest singular triplets of the dense W; Σ sits on the input side as in the
authors' code. Trains rank² numbers per linear; the paper's runs use ranks up to 64. The core starts
from N(0, 10⁻⁵²), so the start is the identity but for noise of that size.
"""

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora
from bigpeft.methods.spectral import Spectral, SpectralOptions

_NOISE = 1e-5


class LoRAXS(Spectral):
    """A trained core between the largest singular vectors of W."""

    class Options(SpectralOptions):
        """LoRA's options; both factors are frozen."""

        alpha: PositiveFloat = Field(16, description="numerator of the scaling")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout before V, in training only")

    family = "combination"
    source = "arXiv 2405.17604"
    moves = "an r × r matrix between frozen singular vectors of W"
    when = "r² numbers per layer must do, whatever the width"
    hf_peft = "LORA, the core in A"
    learning_rate = 2e-3
    learning_rate_source = "the authors' scripts, commonsense"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options.rank, options.iterations)
        self.scaling = options.alpha / options.rank
        self.dropout = nn.Dropout(options.dropout)
        self.core = nn.Parameter(torch.empty(options.rank, options.rank, device=linear.device))

    def reset(self) -> None:
        """The core from N(0, 10⁻⁵²)."""
        super().reset()
        nn.init.normal_(self.core, std=_NOISE)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        down = F.linear(self.dropout(x), self.right.to(x.dtype)) * self.values.to(x.dtype)
        up = F.linear(F.linear(down, self.core.to(x.dtype)), self.left.to(x.dtype))
        return linear.base(x) + self.scaling * up

    def merge(self, weight: Tensor) -> Tensor:
        """W + s · U core Σ Vᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        right = self.values.to(wide)[:, None] * self.right.to(wide)
        delta = self.left.to(wide) @ self.core.to(wide) @ right
        return (weight + self.scaling * delta).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA with A = core Σ Vᵀ and B = U."""
        right = self.values.double()[:, None] * self.right.double()
        return [lora(self.core.double() @ right, self.left, self.scaling, self.dropout.p)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank²."""
        assert isinstance(options, LoRAXS.Options)
        return options.rank**2
