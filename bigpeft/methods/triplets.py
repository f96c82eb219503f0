"""Methods whose update is a sum of triplets, some of which are closed as training goes on.

    y = base(x) + s · B diag(E) A x        triplet k: column k of B, number E_k, row k of A

Shapes never change, so neither do optimizers or checkpoints: a closed triplet is one with mask 0.
What closes and opens is decided for all seats together, from whole fp32 tensors that every rank
holds alike, by the same operations; so ranks on devices of one kind decide alike without asking.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from bigpeft.errors import RecipeError
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.mpc import Mpc
from bigpeft.methods.operator import FrozenLinear

START = 0.02
"""Standard deviation of fresh vectors."""
T = TypeVar("T")


class TripletOptions(LowRankOptions):
    """LoRA's options, the pull towards orthonormal factors, and when triplets close and open."""

    orth_weight: NonNegativeFloat = Field(
        description="weight of the penalty on factors that are not orthonormal; 0 turns it off, "
        "a section mpc takes its place"
    )
    interval: PositiveInt = Field(10, description="steps from one change of ranks to the next")
    warmup_share: float = Field(
        0.1, ge=0, lt=1, description="share of all steps before the first change, rounded down"
    )
    final_share: float = Field(
        0.3, ge=0, lt=1, description="share of all steps after the last change, rounded down"
    )

    @model_validator(mode="after")
    def _leaves_steps_between(self) -> Self:
        if self.warmup_share + self.final_share >= 1:
            raise ValueError(
                f"warmup_share {self.warmup_share:g} and final_share {self.final_share:g} leave no "
                "steps between them"
            )
        return self


@dataclass(frozen=True)
class Pace:
    """When ranks change: every `interval` steps between a first and a last part of the run."""

    interval: int
    warmup_share: float
    final_share: float

    def begin(self, total: int) -> int:
        """The last step of the first part; 0 where there is none."""
        return int(self.warmup_share * total)

    def settled(self, total: int) -> int:
        """The step before the last part, after `begin` and at most `total`."""
        return total - int(self.final_share * total)

    def due(self, number: int, total: int) -> bool:
        """Whether step `number` lies between the parts and on the interval."""
        between = self.begin(total) < number < self.settled(total)
        return between and number % self.interval == 0

    def progress(self, number: int, total: int) -> float:
        """From 0 at `begin` to 1 at `settled`, and no further."""
        begin = self.begin(total)
        return min(1.0, max(0.0, (number - begin) / (self.settled(total) - begin)))


class Triplets(LowRank):
    """The LoRA line with numbers E (slots) between the factors and a mask (slots) beside them."""

    has_core = True
    learning_rate = 5e-4
    learning_rate_source = "arXiv 2407.05417, table VI"
    hf_peft = "LORA, E in A"
    evolving: ClassVar[tuple[str, ...]] = ("mask",)

    def __init__(self, linear: FrozenLinear, options: TripletOptions, slots: int) -> None:
        super().__init__(linear, options.model_copy(update={"rank": slots}))
        self.rank, self.scaling = options.rank, self.scale(options)
        self.pace = Pace(options.interval, options.warmup_share, options.final_share)
        self.lora_E = nn.Parameter(torch.empty(slots, device=linear.device))
        self.mask: Tensor
        self.register_buffer("mask", torch.empty(slots, device=linear.device))
        if options.orth_weight:
            orthonormal = {"pattern": "o", "norm": "fro", "weight": options.orth_weight}
            self.mpc = Mpc.model_validate(orthonormal)

    def reset(self) -> None:
        """A and B normal with deviation 0.02, E zero, the first `rank` triplets open."""
        super().reset()
        self.mask[: self.rank] = 1

    def draw_a(self) -> None:
        """Draw A, normal."""
        nn.init.normal_(self.lora_A, std=START)

    def draw_b(self) -> None:
        """Draw B, normal."""
        nn.init.normal_(self.lora_B, std=START)

    def inner(self, z: Tensor) -> Tensor:
        """E ⊙ z."""
        return z * self.lora_E.to(z.dtype)

    def penalty(self) -> Tensor | None:
        """That of the constraint, over the open triplets alone."""
        if self.mpc is None or not self.penalised:
            return None
        kept = self.mask.nonzero().squeeze(1)
        return self.mpc.penalty(self.lora_A[kept], self.lora_B[:, kept])

    def role(self, parameter: str) -> Role:
        """E is what the triplets weigh: no decay."""
        return Role(parameter, decay=parameter != "lora_E")

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + rank."""
        assert isinstance(options, TripletOptions)
        return super().count(options, linear) + options.rank


def one(values: Iterable[T], options: str) -> T:
    """What all seats have in common. Raises RecipeError where overrides make them differ."""
    first, *others = set(values)
    if others:
        raise RecipeError(
            "method.overrides",
            f"gives linears different values of {options}, by which they change together",
            "set them in method alone",
        )
    return first
