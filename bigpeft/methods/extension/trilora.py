"""TriLoRA, a trained diagonal between LoRA's factors (Feng et al., arXiv 2405.11236).

    W' = W + (alpha / rank) · B diag(core) A

Trains rank · (in_features + out_features) + rank numbers per linear. A and B start uniform
(Kaiming, a = √5), the diagonal at zero, so the start is the identity. It is the diagonal G of arXiv
2407.05417, of whose two implementations the one with the scaling is taken.
"""

import math

import torch
from torch import Tensor, nn

from bigpeft.methods.base import MethodOptions
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear


class TriLoRA(LowRank):
    """Low-rank extension with a diagonal between the factors."""

    family = "extension"
    source = "arXiv 2405.11236"
    moves = "a change of rank r with a trained diagonal between the factors"
    when = "with mpc o: orthonormal factors and their strengths, apart"
    learning_rate = 5e-4
    learning_rate_source = "arXiv 2407.05417, table VI"
    has_core = True
    hf_peft = "LORA, the core in A"

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__(linear, options)
        self.core = nn.Parameter(torch.empty(options.rank, device=linear.device))

    def draw_b(self) -> None:
        """Draw B, uniform as A is; the diagonal is zero."""
        nn.init.kaiming_uniform_(self.lora_B, a=math.sqrt(5))

    def inner(self, z: Tensor) -> Tensor:
        """Core ⊙ z."""
        return z * self.core.to(z.dtype)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + rank."""
        assert isinstance(options, LowRankOptions)
        return super().count(options, linear) + options.rank
