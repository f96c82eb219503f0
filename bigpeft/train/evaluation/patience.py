"""When a run has not become better for long enough."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bigpeft.metrics import lower_is_better


class Patience:
    """Counts evaluations in a row that are not better by `min_delta` than the best before them.

    What it knows is a function of the evaluations it was shown, which are in the run folder: a run
    that goes on shows them again.
    """

    def __init__(self, figure: str, patience: int | None, min_delta: float) -> None:
        self.figure = figure
        self._patience, self._min_delta = patience, min_delta
        self._sign = 1.0 if lower_is_better(figure) else -1.0
        self._best, self._waited = math.inf, 0

    def see(self, evaluations: Iterable[Mapping[str, Any]]) -> "Patience":
        """Rows of metrics; those without the figure do not count."""
        for evaluation in evaluations:
            if self.figure not in evaluation:
                continue
            value = evaluation[self.figure]
            value = math.inf if value is None else self._sign * value
            if value < self._best and not value > self._best - self._min_delta:
                self._best, self._waited = value, 0
            else:
                self._waited += 1
        return self

    def __str__(self) -> str:
        return f"{self.figure} has not become better in {self._waited} evaluations"

    @property
    def is_over(self) -> bool:
        """Whether it has waited long enough."""
        return self._patience is not None and self._waited >= self._patience
