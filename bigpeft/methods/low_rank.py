"""Methods with two low-rank factors: y = base(x) + s · B A x."""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.errors import ShapeError
from bigpeft.methods.algebra import low_rank_delta
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear


class LowRankOptions(MethodOptions):
    """Options of every method with factors A (rank, in_features) and B (out_features, rank)."""

    rank: PositiveInt = Field(8, description="r, the inner dimension of the factors")
    alpha: PositiveFloat = Field(16, description="numerator of the scaling")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")


class LowRank(LinearMethod):
    """Base of the LoRA line: the subclass says how alpha and rank make the scaling."""

    Options = LowRankOptions
    supports_mpc: ClassVar[bool] = True

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__()
        smaller = min(linear.in_features, linear.out_features)
        if options.rank > smaller:
            raise ShapeError(
                linear.name,
                f"rank {options.rank} is above min(in_features, out_features) = {smaller}",
                f"set method.rank to {smaller} or less, or leave this layer out of target_modules",
            )
        self.scaling = self.scale(options)
        self.dropout = options.dropout
        device = linear.device
        self.lora_A = nn.Parameter(torch.empty(options.rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.empty(linear.out_features, options.rank, device=device))

    @staticmethod
    @abstractmethod
    def scale(options: LowRankOptions) -> float:
        """The factor s before B A."""

    def reset(self) -> None:
        """A uniform in ±1/√in_features (Kaiming, a = √5), B zero: W' starts as W."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        y = linear.base(x)
        down = self.scaling * F.linear(self.dropped(x), self.lora_A.to(x.dtype))
        up = self.lora_B.to(x.dtype).t()
        return torch.addmm(_rows(y), _rows(down), up).view_as(y)

    def dropped(self, x: Tensor) -> Tensor:
        """The input of the branch: x, with dropout in training."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def merge(self, weight: Tensor) -> Tensor:
        """W + s · B A, same dtype."""
        return (weight + low_rank_delta(self.lora_A, self.lora_B, self.scaling)).to(weight.dtype)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """Rank × (in_features + out_features)."""
        assert isinstance(options, LowRankOptions)
        return options.rank * (linear.in_features + linear.out_features)


def _rows(tensor: Tensor) -> Tensor:
    """(..., n) → (rows, n)."""
    return tensor.reshape(-1, tensor.shape[-1])
