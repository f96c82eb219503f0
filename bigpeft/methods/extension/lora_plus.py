"""LoRA+, LoRA whose factor B learns faster than A (Hayou et al., arXiv 2402.12354).

    W' = W + (alpha / rank) · B A        learning rate of B = learning_rate_ratio × that of A

The function is LoRA's; only the optimizer groups differ. The paper's ratio is 16, with a base
learning rate about half of LoRA's.
"""

from pydantic import Field, PositiveFloat

from bigpeft.methods.base import Role
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear


class LoRAPlus(LowRank):
    """LoRA with a larger learning rate for B."""

    class Options(LowRankOptions):
        """LoRA's options and the ratio of the two learning rates."""

        learning_rate_ratio: PositiveFloat = Field(16, description="rate of B over rate of A")

    family = "extension"
    source = "arXiv 2402.12354"
    moves = "as lora; B learns faster than A"
    when = "lora converges too slowly in wide models"
    learning_rate = 1e-4
    learning_rate_source = "half of LoRA's, as HF peft advises"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options)
        self.learning_rate_ratio = options.learning_rate_ratio

    def role(self, parameter: str) -> Role:
        """B gets learning_rate_ratio times the learning rate of A."""
        if parameter == "lora_B":
            return Role(parameter, learning_rate_scale=self.learning_rate_ratio)
        return Role(parameter)
