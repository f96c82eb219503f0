"""SSB, scaling the subspaces of both singular bases (Si et al., arXiv 2407.05417, Eq. 10).

    W' = diag(1 + out) · W · diag(1 + in)        y = (1 + out) ⊙ base((1 + in) ⊙ x)

Trains in_features + out_features numbers per linear and starts as the identity.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bigpeft.methods.algebra import scale_features, widen
from bigpeft.methods.base import MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, hira
from bigpeft.methods.scaling import Scaling, ScalingOptions


class SSB(Scaling):
    """One scale per input feature and one per output feature."""

    family = "reconstruction"
    source = "arXiv 2407.05417, Eq. 10"
    moves = "the weight of each input and each output feature, a rank-one pattern on W"
    when = "a tiny adapter with more reach than ssl or ia3, at no cost per step"
    hf_peft = "HIRA of rank 2"

    def __init__(self, linear: FrozenLinear, options: ScalingOptions) -> None:
        super().__init__(options)
        self.scale_in = self.offsets(linear, linear.in_features)
        self.scale_out = self.offsets(linear, linear.out_features)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        return scale_features(linear.base(scale_features(x, self.scale_in)), self.scale_out)

    def merge(self, weight: Tensor) -> Tensor:
        """Rows and columns of W scaled, same dtype."""
        scale = torch.outer(1 + widen(self.scale_out), 1 + widen(self.scale_in))
        return (weight * scale).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """HiRA of rank 2: (1 + out)(1 + in)ᵀ - 1 1ᵀ = out (1 + in)ᵀ + 1 inᵀ."""
        into, out = self.scale_in.double(), self.scale_out.double()
        a = torch.stack([1 + into, into])
        return [hira(a, torch.stack([out, torch.ones_like(out)], dim=1))]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """in_features + out_features."""
        return linear.in_features + linear.out_features
