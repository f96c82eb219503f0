"""AdaLoRA, triplets that compete for a shrinking budget (Zhang et al., arXiv 2303.10512).

    W' = W + (alpha / rank) · B diag(E) A

P, Λ, Q of the paper are B, E, A. Trains rank · (in_features + out_features) + rank numbers per
linear and starts as the identity: A and B normal with deviation 0.02, E zero.

Every number p of A, B and E has an importance |p · ∂loss/∂p|; its running mean times the running
mean of its distance from that mean is its score, and a triplet's score is that of E_k plus the mean
over row k of A plus the mean over column k of B. The budget falls from the sum of all ranks to the
sum of all target ranks,

    b(t) = target + (initial - target) · (1 - progress)³        progress from 0 to 1 between
                                                                warmup_share and 1 - final_share

Every `interval` steps the b(t) best triplets of the whole model stay and the others' E is set to
zero. It may grow again until the next time, so a triplet can come back. In the last part the choice
is fixed and E set to zero after every step. The scaling keeps the initial rank. The penalty is the
mean over all A and B of ‖A Aᵀ - I‖ and ‖Bᵀ B - I‖, not squared. The two averages of every trained
number are fp32 and whole on every rank; checkpoints keep them, the exported adapter does not.

Departures from HF peft's AdaLoRA, all on purpose: the importance takes the numbers before the step,
to which the gradient belongs, where peft takes those after it; closed triplets are left out of the
penalty; exactly the budget stays even where scores are equal, and budgets equal to the initial
sum close nothing; the phases are shares of the run, not steps.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.step import Step, StepTensors
from bigpeft.methods.triplets import Pace, TripletOptions, Triplets, one

_TARGET = 8


class AdaLoRA(Triplets):
    """Low-rank extension that moves ranks to the linears where they matter."""

    class Options(TripletOptions):
        """The triplets' options, the ranks at both ends, and how importances are averaged."""

        rank: PositiveInt = Field(12, description="triplets per linear at the start")
        target_rank: PositiveInt | None = Field(
            None,
            description="mean of triplets per linear at the end; null is 8, or a smaller rank",
        )
        beta1: float = Field(0.85, ge=0, lt=1, description="decay of the mean importance")
        beta2: float = Field(0.85, ge=0, lt=1, description="decay of the mean distance from it")
        orth_weight: NonNegativeFloat = Field(
            0.5,
            description="weight of the penalty on factors that are not orthonormal, 0.5 as in HF "
            "peft (0.1 in the authors' scripts); 0 turns it off, a section mpc takes its place",
        )

        @model_validator(mode="after")
        def _shrinks(self) -> Self:
            if self.target_rank is not None and self.target_rank > self.rank:
                raise ValueError(f"target_rank {self.target_rank} is above rank {self.rank}")
            return self

    family = "extension"
    source = "arXiv 2303.10512"
    moves = "a change whose rank differs from linear to linear, with a fixed sum"
    when = "small budgets, and linears that do not matter alike; runs of some hundred steps"
    evolving: ClassVar[tuple[str, ...]] = ("mask", "averages_A", "averages_B", "averages_E")

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options, options.rank)
        self.target_rank = options.target_rank or min(_TARGET, options.rank)
        self.beta1, self.beta2 = options.beta1, options.beta2
        for factor in "ABE":
            shape = self.get_parameter(f"lora_{factor}").shape
            averages = torch.empty(2, *shape, device=linear.device)
            self.register_buffer(f"averages_{factor}", averages, persistent=False)

    @classmethod
    def before_step(cls, seats: Sequence[Self], step: Step) -> None:
        """Average the importances until the choice is fixed."""
        if step.number < _pace(seats).settled(step.total):
            for seat in seats:
                seat.weigh(step.tensors)

    @classmethod
    def after_step(cls, seats: Sequence[Self], step: Step) -> None:
        """Choose at every interval and before the last part, and close what is not chosen."""
        pace, number, total = _pace(seats), step.number, step.total
        settled = pace.settled(total)
        if not pace.due(number, total) and number < settled:
            return
        if number <= settled:
            choose(seats, budget(seats, pace.progress(number, total)))
        for seat in seats:
            seat.close(step.tensors)

    @torch.no_grad()
    def weigh(self, tensors: StepTensors) -> None:
        """Take this step's importances into the averages.

        A step of fp16 that overflows is not made: what is infinite in it counts for nothing.
        """
        for factor in "ABE":
            parameter = self.get_parameter(f"lora_{factor}")
            mean, distance = self.get_buffer(f"averages_{factor}")
            importance = (tensors.read(parameter, None) * tensors.gradient(parameter)).abs()
            importance = torch.where(importance.isfinite(), importance, mean)
            mean.lerp_(importance, 1 - self.beta1)
            distance.lerp_((importance - mean).abs(), 1 - self.beta2)

    def scores(self) -> Tensor:
        """Of the triplets, (rank)."""
        a, b, e = (self.get_buffer(f"averages_{factor}").prod(dim=0) for factor in "ABE")
        return e + a.mean(dim=1) + b.mean(dim=0)

    @torch.no_grad()
    def close(self, tensors: StepTensors) -> None:
        """Set E of closed triplets to zero, masters and live copies."""
        values = tensors.read(self.lora_E, None)
        tensors.write(self.lora_E, None, torch.where(self.mask > 0, values, 0.0))


def budget(seats: Sequence[AdaLoRA], progress: float) -> int:
    """Triplets that may stay open, all seats together."""
    initial = sum(seat.rank for seat in seats)
    target = sum(seat.target_rank for seat in seats)
    return target + int((initial - target) * (1 - progress) ** 3)


def choose(seats: Sequence[AdaLoRA], kept: int) -> None:
    """Open the `kept` triplets with the highest scores. Of equal ones the earlier are closed."""
    scores = torch.cat([seat.scores() for seat in seats])
    mask = torch.ones_like(scores)
    mask[scores.argsort(stable=True)[: len(scores) - kept]] = 0
    for seat, chosen in zip(seats, mask.split([seat.rank for seat in seats]), strict=True):
        seat.mask.copy_(chosen)


def _pace(seats: Sequence[AdaLoRA]) -> Pace:
    return one((seat.pace for seat in seats), "interval, warmup_share or final_share")
