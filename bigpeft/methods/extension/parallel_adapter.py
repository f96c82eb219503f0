"""Parallel adapter, a bottleneck beside a linear (He et al., arXiv 2110.04366).

    y = base(x) + (alpha / rank) · B f(A x)        f an elementwise function

Trains rank · (in_features + out_features) numbers per linear; starts as LoRA does, as the identity.
With f = ReLU it is MPC_n, the non-linear matrix pattern constraint of arXiv 2407.05417. No weight
can hold f, so it does not merge.
"""

from pydantic import Field
from torch import Tensor

from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.mpc import FUNCTIONS, Activation
from bigpeft.methods.operator import FrozenLinear


class ParallelAdapter(LowRank):
    """Two factors with a non-linear function between them."""

    class Options(LowRankOptions):
        """LoRA's options and the function."""

        activation: Activation = Field("relu", description="f")

    family = "extension"
    source = "arXiv 2110.04366"
    moves = "what a small non-linear network adds beside each linear"
    when = "the change is not linear and merging is not needed"
    mergeable = False
    by_rows = False
    mpc_patterns = "od"
    hf_peft = "none"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options)
        self.activation = FUNCTIONS[options.activation]

    def inner(self, z: Tensor) -> Tensor:
        """f(z)."""
        return self.activation(z)
