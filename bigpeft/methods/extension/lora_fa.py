"""LoRA-FA, LoRA whose factor A stays as drawn (Zhang et al., arXiv 2308.03303).

    W' = W + (alpha / rank) · B A        A frozen

What backward needs of x is A x, rank numbers per token instead of in_features. Trains
rank · out_features numbers per linear; the start is LoRA's, the identity. HF peft's LoRA-FA
optimizer also divides the gradient of B by A Aᵀ; here the optimizer sees it as it is.
"""

from torch import Tensor, nn

from bigpeft.methods.base import MethodOptions
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear


class LoRAFA(LowRank):
    """Low-rank extension over a frozen random projection."""

    family = "extension"
    source = "arXiv 2308.03303"
    moves = "a change of rank r whose input directions are random and fixed"
    when = "activations of lora do not fit: only A x is kept for backward"
    mpc_patterns = ""

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__(linear, options)
        drawn = self.lora_A.detach()
        del self.lora_A
        self.lora_A: nn.Parameter | Tensor
        self.register_buffer("lora_A", drawn)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · out_features."""
        assert isinstance(options, LowRankOptions)
        return options.rank * linear.out_features
