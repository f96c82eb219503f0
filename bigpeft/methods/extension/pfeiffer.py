"""Pfeiffer adapters, a bottleneck behind the feed-forward part alone (arXiv 2005.00247).

    h' = h + U f(D h + b₁) + b₂        h what the last linear of a layer gives, bias included

One per layer. The paper sits behind a post-norm layer, where the sum with the residual is
normalised first; in pre-norm decoders there is no such norm, and as in AdapterHub it sits on what
the feed-forward part gives, before the residual is added. The bottleneck m = rank: of the sizes 16,
32, 64 and 128 that stand for LoRA's ranks 2, 4, 8 and 16 in arXiv 2407.05417 the default is that of
rank 8. f is ReLU, as in the paper.
"""

from pydantic import Field, PositiveInt

from bigpeft.methods.bottleneck import Bottleneck, BottleneckOptions
from bigpeft.methods.mpc import Activation
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.seats import FEED_FORWARD_OUTPUTS


class Pfeiffer(Bottleneck):
    """A small network behind the feed-forward part."""

    class Options(BottleneckOptions):
        """Size, dropout and function."""

        rank: PositiveInt = Field(64, description="m, numbers between the two projections")
        activation: Activation = Field("relu", description="f")

    source = "arXiv 2005.00247"
    moves = "what a small non-linear network adds to what the feed-forward part gives"
    when = "as houlsby, with half as many networks, each twice as wide"
    default_targets = FEED_FORWARD_OUTPUTS

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options, options.activation)
