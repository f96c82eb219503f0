"""Methods that only scale features: parameters are offsets from one, never decayed."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, hira


class ScalingOptions(MethodOptions):
    """Options of every method whose parameters are feature scales."""

    learning_rate_scale: PositiveFloat = Field(
        10, description="scales want a larger learning rate than low-rank factors"
    )


class Scaling(LinearMethod):
    """Base of (IA)3, SSL and SSB.

    Offsets from one keep small steps in bf16 (its spacing above 1 is 2⁻⁷) and give weight decay,
    were it applied, the right fixed point.
    """

    learning_rate: ClassVar[float] = 3e-4
    learning_rate_source: ClassVar[str] = "arXiv 2205.05638 (T-Few), × 10 for scales"
    Options = ScalingOptions

    def __init__(self, options: ScalingOptions) -> None:
        super().__init__()
        self.learning_rate_scale = options.learning_rate_scale

    @staticmethod
    def offsets(linear: FrozenLinear, features: int) -> nn.Parameter:
        """A vector of `features` offsets from one on the layer's device."""
        return nn.Parameter(torch.zeros(features, device=linear.device))

    def role(self, parameter: str) -> Role:
        """Scales: no decay, their own learning rate."""
        return Role(parameter, learning_rate_scale=self.learning_rate_scale, decay=False)


def input_scale_forms(offset: Tensor, out_features: int) -> Sequence[PeftForm]:
    """Forms of W · diag(1 + offset), offset (in_features): (IA)3 of a feed-forward layer, HiRA."""
    scale = (1 + offset.double())[None]
    feed_forward = PeftForm("IA3", {"ia3_l": scale}, lists=("feedforward_modules",))
    return [feed_forward, hira(offset[None], torch.ones(out_features, 1))]
