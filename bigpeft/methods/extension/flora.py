"""FLoRA, a trained matrix between LoRA's factors that starts at zero (Si et al., arXiv 2405.14739).

    W' = W + (alpha / rank) · B core A        core (rank, rank)

The paper's subject is a Tucker core for tensors of any order; for a linear it is this matrix, the
arbitrary G of arXiv 2407.05417. Trains rank · (in_features + out_features) + rank² numbers per
linear. A and B start uniform (Kaiming, a = √5), the core at zero, so the start is the identity and
the first step moves the core alone.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.base import MethodOptions
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear


class FLoRA(LowRank):
    """Low-rank extension with a zero core between the factors."""

    family = "extension"
    source = "arXiv 2405.14739"
    moves = "a change of rank r with any matrix between the factors"
    when = "a small rank has to go far; needs no constraint"
    learning_rate = 5e-4
    learning_rate_source = "arXiv 2407.05417, table VI"
    has_core = True
    hf_peft = "LORA, the core in A"

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__(linear, options)
        self.core = nn.Parameter(torch.empty(options.rank, options.rank, device=linear.device))

    def draw_b(self) -> None:
        """Draw B, uniform as A is; the core is zero."""
        nn.init.kaiming_uniform_(self.lora_B, a=math.sqrt(5))

    def inner(self, z: Tensor) -> Tensor:
        """Core · z."""
        return F.linear(z, self.core.to(z.dtype))

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + rank²."""
        assert isinstance(options, LowRankOptions)
        return super().count(options, linear) + options.rank**2
