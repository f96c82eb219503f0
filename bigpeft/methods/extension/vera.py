"""VeRA, trained vectors around frozen random factors (Kopiczko et al., arXiv 2310.11454, Eq. 2).

    W' = W + diag(scale_out) · B · diag(scale_inner) · A        A (rank, in), B (out, rank) frozen

A and B are Kaiming uniform, functions of the seed and their shape, so layers of one shape share
them and no file holds them; HF peft cuts all of them out of one pair of the largest shape. Trains
out_features + rank numbers per linear. scale_out starts at zero, scale_inner at 0.1, so the start
is the identity. There is no alpha.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat


class VeRA(LinearMethod):
    """Trained scales around a random low-rank product."""

    class Options(MethodOptions):
        """The random factors and the start."""

        rank: PositiveInt = Field(256, description="inner dimension of the random factors")
        seed: NonNegativeInt = Field(0, description="of the random factors, whatever run.seed is")
        start: PositiveFloat = Field(0.1, description="first value of scale_inner")
        dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")
        learning_rate_scale: PositiveFloat = Field(
            10, description="scales want a larger learning rate than low-rank factors"
        )

    family = "extension"
    source = "arXiv 2310.11454"
    moves = "a change of rank r in random directions, scaled per rank and per output"
    when = "thousands of adapters have to be stored"
    hf_peft = "VERA of rank rank · shapes of W"
    learning_rate = 1e-3
    learning_rate_source = "arXiv 2310.11454, × 10 for the scales"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        self.options, self.in_features = options, linear.in_features
        self.dropout = nn.Dropout(options.dropout)
        self.scale_inner = nn.Parameter(torch.empty(options.rank, device=linear.device))
        self.scale_out = nn.Parameter(torch.empty(linear.out_features, device=linear.device))

    def reset(self) -> None:
        """scale_out zero, scale_inner as the options say."""
        super().reset()
        nn.init.constant_(self.scale_inner, self.options.start)

    def factors(self, in_features: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """A and B in fp32, shared by all layers that have their shapes."""
        rank, seed = self.options.rank, self.options.seed
        down = kaiming(rank, in_features, 2 * seed, device)
        return down, kaiming(len(self.scale_out), rank, 2 * seed + 1, device)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        a, b = self.factors(linear.in_features, x.device)
        down = F.linear(self.dropout(x), a.to(x.dtype)) * self.scale_inner.to(x.dtype)
        return linear.base(x) + F.linear(down, b.to(x.dtype)) * self.scale_out.to(x.dtype)

    def merge(self, weight: Tensor) -> Tensor:
        """W + diag(scale_out) B diag(scale_inner) A, same dtype."""
        wide = at_least_fp32(weight.dtype)
        a, b = (factor.to(wide) for factor in self.factors(weight.shape[1], weight.device))
        delta = (self.scale_out.to(wide)[:, None] * b) @ (self.scale_inner.to(wide)[:, None] * a)
        return (weight + delta).to(weight.dtype)

    @property
    def drawn(self) -> tuple[int, int, int, int]:
        """What the random factors follow from: rank, out_features, in_features, seed."""
        options = self.options
        return options.rank, len(self.scale_out), self.in_features, options.seed

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """VeRA, whose layers all cut one pair of factors: each kind of ours is a block of it, and
        the inner scales of other blocks are zero.
        """
        kinds = list(dict.fromkeys(other.drawn for other in seat.seats.values()))
        before = sum(kind[0] for kind in kinds[: kinds.index(self.drawn)])
        rank = sum(kind[0] for kind in kinds)
        inner = torch.zeros(rank)
        inner[before : before + len(self.scale_inner)] = self.scale_inner
        return [
            PeftForm(
                "VERA",
                {"vera_lambda_b": self.scale_out, "vera_lambda_d": inner},
                {"r": rank, "save_projection": True},
                training={"vera_dropout": self.options.dropout},
                whole=partial(_blocks, kinds),
            )
        ]

    def role(self, parameter: str) -> Role:
        """Scales: no decay, their own learning rate."""
        return Role(parameter, learning_rate_scale=self.options.learning_rate_scale, decay=False)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """out_features + rank."""
        assert isinstance(options, VeRA.Options)
        return linear.out_features + options.rank


def _blocks(kinds: Sequence[tuple[int, int, int, int]]) -> Mapping[str, Tensor]:
    """HF peft's vera_A and vera_B, which have a block of rows and of columns for each kind."""
    cpu, start = torch.device("cpu"), 0
    ranks, rows, columns, _ = zip(*kinds, strict=True)
    whole_a = torch.zeros(sum(ranks), max(columns))
    whole_b = torch.zeros(max(rows), sum(ranks))
    for own, out_features, in_features, seed in kinds:
        whole_a[start : start + own, :in_features] = kaiming(own, in_features, 2 * seed, cpu)
        whole_b[:out_features, start : start + own] = kaiming(out_features, own, 2 * seed + 1, cpu)
        start += own
    return {"vera_A": whole_a, "vera_B": whole_b}


@cache
def kaiming(rows: int, columns: int, seed: int, device: torch.device) -> Tensor:
    """Uniform in ±√(6 / columns), drawn on the CPU, so that every device has the same."""
    bound = math.sqrt(6 / columns)
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator).to(device)
