"""Houlsby adapters, a bottleneck behind both sublayers (Houlsby et al., arXiv 1902.00751).

    h' = h + U f(D h + b₁) + b₂        h what the last linear of a sublayer gives, bias included

Two per layer, behind attention and feed-forward part, before the residual is added. The bottleneck
m = rank: of the sizes 8, 16, 32 and 64 that stand for LoRA's ranks 2, 4, 8 and 16 in arXiv
2407.05417 the default is that of rank 8. f is SiLU as there; the paper has no preference.
"""

from pydantic import Field

from bigpeft.methods.bottleneck import Bottleneck, BottleneckOptions
from bigpeft.methods.mpc import Activation
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.seats import ATTENTION_OUTPUTS, FEED_FORWARD_OUTPUTS


class Houlsby(Bottleneck):
    """A small network behind attention and one behind the feed-forward part."""

    class Options(BottleneckOptions):
        """Size, dropout and function."""

        activation: Activation = Field("silu", description="f")

    source = "arXiv 1902.00751"
    moves = "what a small non-linear network adds to what a sublayer gives"
    when = "the change is not linear, and a little more time per token is acceptable"
    default_targets = (ATTENTION_OUTPUTS, FEED_FORWARD_OUTPUTS)

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options, options.activation)
