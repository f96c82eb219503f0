"""rsLoRA, LoRA whose scaling keeps the update's size at any rank (Kalajdzievski, arXiv 2312.03732).

    W' = W + (alpha / √rank) · B A

Everything else is LoRA; choose it when the rank is large (64 and more).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.peft_form import PeftForm, PeftSeat, numerator


class RsLoRA(LowRank):
    """Low-rank extension with scaling alpha / √rank."""

    family = "extension"
    source = "arXiv 2312.03732"
    moves = "as lora, with a scaling that stays useful at large rank"
    when = "ranks of 64 and more"
    hf_peft = "LORA with use_rslora"

    @staticmethod
    def scale(options: LowRankOptions) -> float:
        """Alpha / √rank."""
        return options.alpha / math.sqrt(options.rank)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA with peft's own name for this scaling."""
        alpha = numerator(self.scaling, math.sqrt(len(self.lora_A)))
        return [
            replace(form, config={"use_rslora": True}, layer={**form.layer, "lora_alpha": alpha})
            for form in super().peft_forms(seat)
        ]
