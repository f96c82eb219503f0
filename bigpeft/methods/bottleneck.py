"""A small network behind a sublayer: h + U f(D h + b₁) + b₂."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.mpc import FUNCTIONS
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat
from bigpeft.methods.seats import OutputMethod


class BottleneckOptions(MethodOptions):
    """Options of every adapter behind a sublayer, beside its function."""

    rank: PositiveInt = Field(32, description="m, numbers between the two projections")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before U, in training only")


class Bottleneck(OutputMethod):
    """Base of the serial adapters; the subclass says where they sit and which f they take.

    D (m, features) starts uniform in ±1/√features and all else zero, as AdapterHub's
    `mam_adapter`: the start is the identity. Papers and AdapterHub's `bert` draw both matrices from
    a narrow normal distribution, which is near it.
    """

    family: ClassVar[str] = "extension"
    learning_rate: ClassVar[float] = 5e-4
    learning_rate_source: ClassVar[str] = "arXiv 2407.05417, table VI"

    def __init__(self, linear: FrozenLinear, options: BottleneckOptions, activation: str) -> None:
        super().__init__()
        features, rank, device = linear.out_features, options.rank, linear.device
        self.activation, self.dropout = FUNCTIONS[activation], options.dropout
        self.down = nn.Parameter(torch.empty(rank, features, device=device))
        self.down_bias = nn.Parameter(torch.empty(rank, device=device))
        self.up = nn.Parameter(torch.empty(features, rank, device=device))
        self.up_bias = nn.Parameter(torch.empty(features, device=device))

    def reset(self) -> None:
        """D uniform in ±1/√features (Kaiming, a = √5), all else zero."""
        super().reset()
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, y: Tensor) -> Tensor:
        """y (..., out_features) → y + U f(D y + b₁) + b₂ in y.dtype."""
        dtype = y.dtype
        inner = F.linear(y, self.down.to(dtype), self.down_bias.to(dtype))
        inner = F.dropout(self.activation(inner), self.dropout, self.training)
        return y + F.linear(inner, self.up.to(dtype), self.up_bias.to(dtype))

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """None: HF peft has no network there."""
        raise NoPeftForm("is a small network behind a layer, which HF peft has not")

    def role(self, parameter: str) -> Role:
        """Biases are not decayed."""
        return Role(parameter, decay=not parameter.endswith("bias"))

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """2 · rank · out_features + out_features + rank."""
        assert isinstance(options, BottleneckOptions)
        return (2 * options.rank + 1) * linear.out_features + options.rank
