"""Methods with two trained factors: y = base(x) + s · B A x and its relatives."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.mpc import FUNCTIONS, Mpc
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat, lora
from bigpeft.methods.shapes import refuse_rank_above_sides


class FactorOptions(MethodOptions):
    """Options of every method with factors A (rank, in_features) and B (out_features, rank)."""

    rank: PositiveInt = Field(8, description="r, the inner dimension of the factors")


class LowRankOptions(FactorOptions):
    """Options of the LoRA line: the update is scaled, and its input may be dropped."""

    alpha: PositiveFloat = Field(16, description="numerator of the scaling")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")


class Factors(LinearMethod):
    """Two factors and what lies between them; the subclass says how they join the base."""

    mpc_patterns: ClassVar[str] = "od"
    mpc: Mpc | None = None

    def __init__(self, linear: FrozenLinear, rank: int) -> None:
        super().__init__()
        refuse_rank_above_sides(linear, rank)
        device = linear.device
        self.lora_A = nn.Parameter(torch.empty(rank, linear.in_features, device=device))
        self.lora_B = nn.Parameter(torch.empty(linear.out_features, rank, device=device))

    def constrain(self, mpc: Mpc) -> None:
        """Lay this constraint on the factors. With a function between them nothing merges."""
        self.mpc = mpc
        self.mergeable = self.mergeable and mpc.pattern != "n"

    @property
    def penalised(self) -> bool:
        """Whether a constraint has one."""
        return self.mpc is not None and self.mpc.pattern != "n" and self.mpc.weight > 0

    def penalty(self) -> Tensor | None:
        """That of the constraint."""
        return self.mpc.penalty(self.lora_A, self.lora_B) if self.mpc and self.penalised else None

    def reset(self) -> None:
        """A uniform in ±1/√in_features (Kaiming, a = √5), all else zero: W' starts as W."""
        super().reset()
        self.draw_a()
        self.draw_b()
        if self.mpc is not None and self.mpc.orthonormal_start:
            nn.init.orthogonal_(self.lora_A)
            if self.lora_B.any():
                nn.init.orthogonal_(self.lora_B)

    def draw_a(self) -> None:
        """Draw A, uniform in ±1/√in_features."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def draw_b(self) -> None:
        """Draw B: zero, unless what lies between the factors is."""

    def bent(self, z: Tensor) -> Tensor:
        """A x, through the function of an n constraint."""
        if self.mpc is None or self.mpc.pattern != "n":
            return z
        return FUNCTIONS[self.mpc.activation](z)

    def inner(self, z: Tensor) -> Tensor:
        """What lies between the factors: z (..., rank) → (..., rank). Linear, or no merge."""
        return z

    def product(self, x: Tensor) -> Tensor:
        """B · inner(A x) in x.dtype."""
        down = F.linear(x, self.lora_A.to(x.dtype))
        return F.linear(self.inner(down), self.lora_B.to(x.dtype))

    def dense_product(self, dtype: torch.dtype) -> Tensor:
        """The matrix of `product`, (out_features, in_features), in this dtype."""
        return self.lora_B.to(dtype) @ self.inner(self.lora_A.to(dtype).t()).t()

    def linear_factors(self) -> tuple[Tensor, Tensor]:
        """A (rank, in_features) and B (out_features, rank) in fp64, whose product is that of
        `product`. Raises NoPeftForm where there is a function between them.
        """
        if not self.mergeable:
            raise NoPeftForm("has a function between its factors, which HF peft has not")
        return self.inner(self.lora_A.double().t()).t(), self.lora_B.double()

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features)."""
        assert isinstance(options, FactorOptions)
        return options.rank * (linear.in_features + linear.out_features)


class LowRank(Factors):
    """Base of the LoRA line: W' = W + s · B A, s = alpha / rank unless the subclass says else."""

    Options = LowRankOptions
    mpc_patterns: ClassVar[str] = "odn"
    hf_peft: ClassVar[str] = "LORA"
    by_rows = True
    has_core: ClassVar[bool] = False
    """Whether something trained between the factors leaves their lengths free."""

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__(linear, options.rank)
        self.scaling = self.scale(options)
        self.dropout = options.dropout

    @staticmethod
    def scale(options: LowRankOptions) -> float:
        """The factor s before B A."""
        return options.alpha / options.rank

    def remark(self) -> str | None:
        """Pattern o pulls B A, once it has left zero, to singular values of one."""
        pulls = self.mpc is not None and self.mpc.pattern == "o" and self.mpc.weight > 0
        if not pulls or self.has_core or self.scaling < 1:
            return None
        return (
            f"mpc pattern o drives the update towards singular values of alpha / rank = "
            f"{self.scaling:g}; keep mpc.weight small, lower alpha, or take pattern d"
        )

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        return self.add_branch(linear.base(x), x)

    def add_branch(self, y: Tensor, x: Tensor) -> Tensor:
        """y + s · B A x in x.dtype, in one pass over y."""
        down = F.linear(self.dropped(x), self.lora_A.to(x.dtype))
        down = self.scaling * self.inner(self.bent(down))
        up = self.lora_B.to(x.dtype).t()
        return torch.addmm(_rows(y), _rows(down), up).view_as(y)

    def dropped(self, x: Tensor) -> Tensor:
        """The input of the branch: x, with dropout in training."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def delta(self, dtype: torch.dtype) -> Tensor:
        """The matrix of the branch, in this dtype."""
        return self.scaling * self.dense_product(dtype)

    def merge(self, weight: Tensor) -> Tensor:
        """W + s · B A, same dtype."""
        if not self.mergeable:
            return super().merge(weight)
        return self.merge_rows(weight, slice(None))

    def merge_rows(self, weight: Tensor, rows: slice) -> Tensor:
        """The same of a few rows: they have rows of B to themselves."""
        wide = at_least_fp32(weight.dtype)
        down = self.inner(self.lora_A.to(wide).t()).t()
        up = self.scaling * self.lora_B[rows].to(wide)
        return weight.to(wide, copy=True).addmm_(up, down).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA, with what lies between the factors multiplied into A."""
        return [lora(*self.linear_factors(), self.scaling, self.dropout)]


def _rows(tensor: Tensor) -> Tensor:
    """(..., n) → (rows, n)."""
    return tensor.reshape(-1, tensor.shape[-1])
