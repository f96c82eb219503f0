"""(IA)3, learned rescaling of activations (Liu et al., arXiv 2205.05638, section 3.3).

    attention:     W' = diag(1 + scale) · W        y = (1 + scale) ⊙ base(x)
    feed-forward:  W' = W · diag(1 + scale)        y = base((1 + scale) ⊙ x)

On the last linear of a feed-forward block the scale acts on its input, the activation, as in the
paper (the code of arXiv 2407.05417 scales outputs everywhere). The bias is not scaled; HF peft
scales it, which differs only on layers that have one. Trains out_features numbers per linear,
in_features on feed-forward ones, and starts as the identity.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from bigpeft.methods.algebra import scale_features, widen
from bigpeft.methods.base import MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, hira
from bigpeft.methods.scaling import Scaling, ScalingOptions, input_scale_forms

_FEED_FORWARD = ("down_proj", "fc2", "dense_4h_to_h", "mlp.c_proj")


class IA3(Scaling):
    """One scale per output feature, or per input feature on feed-forward layers."""

    class Options(ScalingOptions):
        """Which of the targets are scaled on their input."""

        feedforward_modules: tuple[str, ...] = Field(
            _FEED_FORWARD, description="ends of layer names whose input is scaled"
        )

    family = "reconstruction"
    source = "arXiv 2205.05638"
    moves = "the length of output rows (input columns on feed-forward layers); directions stay"
    when = "few rows of data, a tiny adapter, and no time for a search"
    hf_peft = "IA3, or HIRA of rank 1 beside biases"
    default_targets = r".*(k_proj|v_proj|c_attn|query_key_value|down_proj|fc2|mlp\.c_proj)"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(options)
        self.scales_input = _scales_input(linear, options)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = self.offsets(linear, self.count(options, linear))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        if self.scales_input:
            return linear.base(scale_features(x, self.scale))
        return scale_features(linear.base(x), self.scale)

    def merge(self, weight: Tensor) -> Tensor:
        """Rows of W scaled, or columns on feed-forward layers, same dtype."""
        scale = 1 + widen(self.scale)
        return (weight * (scale if self.scales_input else scale[:, None])).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """(IA)3, which scales the bias with the output; HiRA, which leaves it alone."""
        if self.scales_input:
            return input_scale_forms(self.scale, self.out_features)
        ones = torch.ones(1, self.in_features)
        forms = [hira(ones, self.scale[:, None])]
        if not seat.bias:
            forms.insert(0, PeftForm("IA3", {"ia3_l": (1 + self.scale.double())[:, None]}))
        return forms

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """in_features on feed-forward layers, out_features elsewhere."""
        assert isinstance(options, IA3.Options)
        return linear.in_features if _scales_input(linear, options) else linear.out_features


def _scales_input(linear: FrozenLinear, options: IA3.Options) -> bool:
    ends = tuple(options.feedforward_modules)
    return any(linear.name == end or linear.name.endswith(f".{end}") for end in ends)
