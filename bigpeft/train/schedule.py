"""Learning-rate schedules: pure functions of the step, so nothing has to be saved."""

import math
from dataclasses import dataclass
from typing import Literal, Self

from bigpeft.recipe import Optimizer


@dataclass(frozen=True)
class Schedule:
    """The factor on every group's peak learning rate, by optimizer step (from 0).

    Warm-up rises linearly over `warmup` steps; then `constant`, `linear` or `cosine` down to
    `final_ratio` at `steps`, or `wsd`: flat, then linear over the last `decay_ratio` of the steps.
    """

    kind: Literal["constant", "linear", "cosine", "wsd"]
    steps: int
    warmup: int
    decay_ratio: float = 0.2
    final_ratio: float = 0.0

    @classmethod
    def of(cls, wanted: Optimizer, steps: int) -> Self:
        """The recipe's schedule over so many steps; warm-up by steps wins over the ratio."""
        warmup = wanted.warmup_steps
        if warmup is None:
            warmup = math.ceil(wanted.warmup_ratio * steps)
        return cls(wanted.schedule, steps, warmup, wanted.decay_ratio, wanted.final_ratio)

    def factor(self, step: int) -> float:
        """The factor for the update that follows `step` finished updates."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        if self.kind == "constant":
            return 1.0
        start = self.warmup
        if self.kind == "wsd":
            start = max(start, self.steps - math.ceil(self.decay_ratio * self.steps))
        if step < start:
            return 1.0
        progress = min(1.0, (step - start) / max(1, self.steps - start))
        fall = (1 + math.cos(math.pi * progress)) / 2 if self.kind == "cosine" else 1 - progress
        return self.final_ratio + (1 - self.final_ratio) * fall
