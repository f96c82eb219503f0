"""Methods whose factors start as a part of W: W' = (W - B₀A₀) + B A.

Two forms. The residual form freezes W - B₀A₀, which is what gets quantised: in 4 bits the error is
that of the residual, and the start is Q(W - B₀A₀) + B₀A₀. The form that keeps the base freezes W
and subtracts frozen copies, y = base(x) + (B A - B₀A₀) x: the start is Q(W) to the last bit, the
base stays shared with other methods, and one more rank-r branch is paid.

The scaling is 1, as in both papers, and there is no dropout: B A carries pretrained signal, not a
change. For the same reason nothing is decayed.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bigpeft.errors import RecipeError
from bigpeft.methods.algebra import at_least_fp32, down_up, widen
from bigpeft.methods.base import Role
from bigpeft.methods.low_rank import FactorOptions, Factors
from bigpeft.methods.mpc import Mpc
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora


class ResidualOptions(FactorOptions):
    """Which form of the residual is frozen."""

    keep_base: bool = Field(False, description="freeze W and subtract frozen copies of A and B")


class Residual(Factors):
    """Base of PiSSA and MiLoRA: the subclass says which triplets of W are trained."""

    Options = ResidualOptions
    needs_dense = True
    hf_peft: ClassVar[str] = "LORA of rank 2 · rank"

    def __init__(self, linear: FrozenLinear, options: ResidualOptions) -> None:
        super().__init__(linear, options.rank)
        self.keep_base = options.keep_base
        self.edits_base = not self.keep_base
        if self.keep_base:
            self.start_A: Tensor
            self.start_B: Tensor
            self.register_buffer("start_A", torch.empty_like(self.lora_A))
            self.register_buffer("start_B", torch.empty_like(self.lora_B))

    def constrain(self, mpc: Mpc) -> None:
        """Lay this constraint on the factors, which start from W and nowhere else."""
        if mpc.orthonormal_start:
            raise RecipeError(
                "mpc.orthonormal_start", "A starts as a part of W here", "set it to false"
            )
        super().constrain(mpc)

    @abstractmethod
    def triplets(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U (out_features, rank), σ (rank), Vᵀ (rank, in_features): what A and B start from."""

    def start_factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A₀ = √σ Vᵀ (rank, in_features) and B₀ = U √σ (out_features, rank) of dense W."""
        left, values, right = self.triplets(weight)
        root = values.sqrt()
        return root[:, None] * right, left * root

    @torch.no_grad()
    def start(self, weight: Tensor) -> Tensor:
        """A = A₀, B = B₀. Returns W - B₀A₀, or W where the base is kept."""
        start_a, start_b = self.start_factors(weight)
        self.lora_A.copy_(start_a)
        self.lora_B.copy_(start_b)
        if self.keep_base:
            self.start_A.copy_(self.lora_A)
            self.start_B.copy_(self.lora_B)
            return weight
        return weight - widen(self.lora_B) @ widen(self.lora_A)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        update = self.product(x)
        if self.keep_base:
            update = update - down_up(x, self.start_A, self.start_B)
        return linear.base(x) + update

    def merge(self, weight: Tensor) -> Tensor:
        """The frozen weight, which is the residual unless the base is kept, → W', same dtype."""
        wide = at_least_fp32(weight.dtype)
        merged = weight + self.dense_product(wide)
        if self.keep_base:
            merged = merged - self.start_B.to(wide) @ self.start_A.to(wide)
        return merged.to(weight.dtype)

    @torch.no_grad()
    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA over the whole W: B A and, beside it, the part -B₀A₀ that training started from."""
        a, b = self.linear_factors()
        if self.keep_base:
            start_a, start_b = self.start_A.double(), self.start_B.double()
        else:
            start_a, start_b = self.start_factors(seat.dense())
        return [lora(torch.cat([a, start_a.to(a)]), torch.cat([b, -start_b.to(b)], dim=1))]

    def role(self, parameter: str) -> Role:
        """No decay: it would pull a part of W to zero."""
        return Role(parameter, decay=False)
