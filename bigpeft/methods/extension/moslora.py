"""MoSLoRA, a trained mixer between LoRA's factors (Wu et al., arXiv 2406.11909).

    W' = W + (alpha / rank) · B mixer A        mixer (rank, rank)

Trains rank · (in_features + out_features) + rank² numbers per linear. A and the mixer start uniform
(Kaiming, a = √5, as in the authors' code), B at zero, so the start is the identity. It differs from
FLoRA in which factor starts at zero.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.base import MethodOptions
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear


class MoSLoRA(LowRank):
    """Low-rank extension with a random mixer between the factors."""

    family = "extension"
    source = "arXiv 2406.11909"
    moves = "as flora, from another start: B is zero, the mixer random"
    when = "as flora, where the first steps should already move all factors"
    learning_rate = 3e-4
    learning_rate_source = "the authors' scripts"
    has_core = True
    hf_peft = "LORA, the mixer in A"

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__(linear, options)
        self.mixer = nn.Parameter(torch.empty(options.rank, options.rank, device=linear.device))

    def reset(self) -> None:
        """A and the mixer uniform, B zero."""
        super().reset()
        nn.init.kaiming_uniform_(self.mixer, a=math.sqrt(5))

    def inner(self, z: Tensor) -> Tensor:
        """Mixer · z."""
        return F.linear(z, self.mixer.to(z.dtype))

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + rank²."""
        assert isinstance(options, LowRankOptions)
        return super().count(options, linear) + options.rank**2
