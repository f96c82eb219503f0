"""LoRA-FA, LoRA whose factor A stays as drawn (Zhang et al., arXiv 2308.03303).

    W' = W + (alpha / rank) · B A        A frozen

What backward needs of x is A x, rank numbers per token instead of in_features. Trains
rank · out_features numbers per linear; the start is LoRA's, the identity.

Projected LoRA-FA (HF peft's optimizer) divides the gradient of B by A Aᵀ. With orthonormal rows
A Aᵀ = I, so a gradient step is that of any other A with the same span, projected; `orthonormal`
draws such an A. (Adam then scales each entry of B, in either form in its own coordinates.)
"""

from pydantic import Field
from torch import Tensor, nn

from bigpeft.methods.base import MethodOptions
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear


class LoRAFA(LowRank):
    """Low-rank extension over a frozen random projection."""

    class Options(LowRankOptions):
        """LoRA's options, and the kind of frozen A."""

        orthonormal: bool = Field(
            False, description="draw A with orthonormal rows, as projected LoRA-FA would see it"
        )

    family = "extension"
    source = "arXiv 2308.03303"
    moves = "a change of rank r whose input directions are random and fixed"
    when = "activations of lora do not fit: only A x is kept for backward"
    mpc_patterns = ""

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options)
        drawn = self.lora_A.detach()
        del self.lora_A
        self.lora_A: nn.Parameter | Tensor
        self.register_buffer("lora_A", drawn)
        self.orthonormal = options.orthonormal

    def draw_a(self) -> None:
        """Draw A as LoRA does, or with orthonormal rows."""
        if self.orthonormal:
            nn.init.orthogonal_(self.lora_A)
        else:
            super().draw_a()

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · out_features."""
        assert isinstance(options, LowRankOptions)
        return options.rank * linear.out_features
