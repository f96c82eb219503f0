"""SSL, scaling the subspace of the left singular vectors (Si et al., arXiv 2407.05417, Eq. 10).

    W' = W · diag(1 + in)        y = base((1 + in) ⊙ x)

The paper writes x W, so its left side is the input side here. Trains in_features numbers per
linear and starts as the identity. Equals (IA)3 with every layer a feed-forward layer.
"""

from collections.abc import Sequence

from torch import Tensor

from bigpeft.methods.algebra import scale_features, widen
from bigpeft.methods.base import MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat
from bigpeft.methods.scaling import Scaling, ScalingOptions, input_scale_forms


class SSL(Scaling):
    """One scale per input feature."""

    family = "reconstruction"
    source = "arXiv 2407.05417, Eq. 10"
    moves = "the weight of each input feature; the output side stays"
    when = "the smallest adapter that still reaches every linear"
    hf_peft = "IA3 of feed-forward layers"

    def __init__(self, linear: FrozenLinear, options: ScalingOptions) -> None:
        super().__init__(options)
        self.out_features = linear.out_features
        self.scale_in = self.offsets(linear, linear.in_features)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        return linear.base(scale_features(x, self.scale_in))

    def merge(self, weight: Tensor) -> Tensor:
        """Columns of W scaled, same dtype."""
        return (weight * (1 + widen(self.scale_in))).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """(IA)3 with a layer whose input is scaled."""
        return input_scale_forms(self.scale_in, self.out_features)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """in_features."""
        return linear.in_features
