"""PiCa, an update over the largest right singular vectors of W (Hwang et al., arXiv 2505.20211).

    W' = W + up · Vᵀ        Vᵀ (rank, in_features) frozen, up (out_features, rank)

V comes from the dense W of each layer; `up` is shared by all layers whose names end alike and whose
W have one shape, unless `shared` is false. Trains rank · out_features numbers for each such kind of
linear (the paper's rank is 256) and starts as the identity.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from bigpeft.methods.algebra import at_least_fp32, down_up, top_singular
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora
from bigpeft.methods.shapes import refuse_rank_above_sides
from bigpeft.methods.spectral import SpectralOptions


class PiCa(LinearMethod):
    """A trained up-projection over frozen right singular vectors."""

    class Options(SpectralOptions):
        """The rank, and whether layers share."""

        shared: bool = Field(True, description="one up-projection for all layers of one name")

    family = "combination"
    source = "arXiv 2505.20211"
    moves = "outputs for the r largest right singular vectors of W"
    when = "as lora_fa, with input directions that the model itself uses"
    learning_rate = 1e-3
    learning_rate_source = "the authors' scripts"
    needs_dense = True
    hf_peft = "LORA"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        refuse_rank_above_sides(linear, options.rank)
        self.iterations, self.shared = options.iterations, options.shared
        self._lender: tuple[PiCa, ...] = ()
        device = linear.device
        self.up = nn.Parameter(torch.empty(linear.out_features, options.rank, device=device))
        self.right: Tensor
        self.register_buffer("right", torch.empty(options.rank, linear.in_features, device=device))

    @classmethod
    def join(cls, seats: Mapping[str, Self]) -> None:
        """The first seat of each kind lends its up-projection to the others."""
        first: dict[tuple[str, torch.Size], PiCa] = {}
        for name, seat in seats.items():
            if seat.shared:
                lender = first.setdefault(_kind(name, seat.up.shape), seat)
                if lender is not seat:
                    del seat.up
                    seat._lender = (lender,)

    @property
    def common(self) -> nn.Parameter:
        """The up-projection (out_features, rank), wherever it lives."""
        return self._lender[0].up if self._lender else self.up

    def start(self, weight: Tensor) -> Tensor:
        """Right singular vectors of dense W; W itself is frozen."""
        self.right.copy_(top_singular(weight, len(self.right), self.iterations)[2])
        return weight

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        return linear.base(x) + down_up(x, self.right, self.common)

    def merge(self, weight: Tensor) -> Tensor:
        """W + up · Vᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        return (weight + self.common.to(wide) @ self.right.to(wide)).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA with A = Vᵀ."""
        return [lora(self.right, self.common)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · out_features."""
        assert isinstance(options, SpectralOptions)
        return options.rank * linear.out_features

    @classmethod
    def total(cls, seats: Sequence[tuple[Any, Any]]) -> int:
        """rank · out_features for each kind of linear, or for each linear that shares nothing."""
        counted: dict[object, int] = {}
        for options, linear in seats:
            shape = torch.Size((linear.out_features, options.rank))
            key = _kind(linear.name, shape) if options.shared else linear.name
            counted[key] = cls.count(options, linear)
        return sum(counted.values())


def _kind(name: str, shape: torch.Size) -> tuple[str, torch.Size]:
    return name.rpartition(".")[2], shape
