"""BitFit, a trained bias (Ben Zaken et al., arXiv 2106.10199).

    y = base(x) + offset

The paper trains the biases that a model has; many decoders have none, so every target gets an
offset, beside its own bias where there is one. Trains out_features numbers per linear, starts as
the identity, and cannot merge into a weight.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora


class BitFit(LinearMethod):
    """One offset per output feature."""

    class Options(MethodOptions):
        """How fast it learns."""

        learning_rate_scale: PositiveFloat = Field(
            10, description="offsets want a larger learning rate than low-rank factors"
        )

    family = "reconstruction"
    source = "arXiv 2106.10199"
    moves = "where outputs are centred; W itself stays"
    when = "models with biases, or a baseline that costs nothing"
    learning_rate = 1e-4
    learning_rate_source = "arXiv 2106.10199, × 10 for offsets"
    mergeable = False
    hf_peft = "BEFT, or LORA with lora_bias on Conv1D"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        self.learning_rate_scale = options.learning_rate_scale
        self.in_features = linear.in_features
        self.offset = nn.Parameter(torch.empty(linear.out_features, device=linear.device))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, the bias of W not included."""
        return linear.base(x) + self.offset.to(x.dtype)

    def role(self, parameter: str) -> Role:
        """Offsets: no decay, their own learning rate."""
        return Role(parameter, learning_rate_scale=self.learning_rate_scale, decay=False)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """BEFT, which trains an offset too; LoRA of nothing with a bias, for Conv1D layers."""
        nothing = lora(torch.zeros(1, self.in_features), torch.zeros(len(self.offset), 1))
        tensors = {**nothing.tensors, "lora_B.bias": self.offset}
        return [
            PeftForm("BEFT", {"beft_bias": self.offset[None]}),
            replace(nothing, tensors=tensors, config={"lora_bias": True}),
        ]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """out_features."""
        return linear.out_features
