"""A measured value with its 95 % interval."""

import math
from dataclasses import asdict, dataclass, replace

from torch import Tensor

_Z = 1.959963984540054  # 97.5 % of the standard normal distribution


@dataclass(frozen=True)
class Figure:
    """`value` of a metric over `rows` rows; the 95 % interval is [`low`, `high`]."""

    value: float
    low: float
    high: float
    rows: int

    def as_json(self) -> dict[str, float]:
        """For eval.json."""
        return asdict(self)

    def within(self, low: float, high: float) -> "Figure":
        """The same with its interval cut to what is possible."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def share(right: Tensor) -> Figure:
    """The share of rows that are right, bool (rows,), with Wilson's interval."""
    rows = len(right)
    value = float(right.double().mean())
    square = _Z * _Z / rows
    middle = (value + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(value * (1 - value) / rows + square / (4 * rows))
    return Figure(value, min(value, middle - half), max(value, middle + half), rows).within(
        0.0, 1.0
    )


def ratio(sums: Tensor, counts: Tensor) -> Figure:
    """Σ sums / Σ counts over rows, fp64 (rows,) both, with a normal interval over rows.

    Tokens of one row depend on each other, so what varies is the row: the variance is that of the
    rows' residuals, sums − value × counts. One row alone has no interval but its value.
    """
    rows, total = len(sums), float(counts.sum())
    value = float(sums.sum()) / total
    half = 0.0
    if rows > 1:
        residuals = sums - value * counts
        half = _Z * math.sqrt(float(residuals.square().sum()) * rows / (rows - 1)) / total
    return Figure(value, value - half, value + half, rows)
