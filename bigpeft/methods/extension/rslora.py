"""rsLoRA, LoRA whose scaling keeps the update's size at any rank (Kalajdzievski, arXiv 2312.03732).

    W' = W + (alpha / √rank) · B A

Everything else is LoRA; choose it when the rank is large (64 and more).
"""

import math

from bigpeft.methods.low_rank import LowRank, LowRankOptions


class RsLoRA(LowRank):
    """Low-rank extension with scaling alpha / √rank."""

    family = "extension"
    source = "arXiv 2312.03732"
    moves = "as lora, with a scaling that stays useful at large rank"
    when = "ranks of 64 and more"

    @staticmethod
    def scale(options: LowRankOptions) -> float:
        """Alpha / √rank."""
        return options.alpha / math.sqrt(options.rank)
