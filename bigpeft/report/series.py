"""Curves of a run: pairs of steps and values, smoothed, thinned, without holes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

_MOST = 800
"""Points of a curve: more cannot be told apart on paper, and a page of a long run stays small."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Series:
    """Values by step, in the order of the steps."""

    steps: list[int]
    values: list[float]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.steps)


def series(rows: Sequence[Row], value: str | Callable[[Row], Any]) -> Series:
    """Of a key, or of a function of the row; rows without a finite number are left out."""
    pick = (lambda row: row.get(value)) if isinstance(value, str) else value
    found = [(row["step"], pick(row)) for row in rows]
    kept = [(step, float(y)) for step, y in found if _is_finite(y)]
    return Series([step for step, _ in kept], [y for _, y in kept])


def tokens_per_second(row: Row) -> float | None:
    """None for a row that does not say both."""
    tokens, seconds = row.get("tokens"), row.get("seconds")
    return tokens / seconds if _is_finite(tokens) and _is_finite(seconds) and seconds else None


def gibibytes(row: Row) -> float | None:
    """Peak memory of the first rank."""
    memory = row.get("memory_bytes")
    return memory / 2**30 if _is_finite(memory) else None


def smoothed(curve: Series) -> Series:
    """A running mean that forgets half within a fortieth of the curve, and starts without bias."""
    keep = 0.5 ** (1 / max(1.0, len(curve) / 40))
    total, weight, values = 0.0, 0.0, []
    for value in curve.values:
        total, weight = keep * total + value, keep * weight + 1
        values.append(total / weight)
    return Series(curve.steps, values)


def thinned(curve: Series, most: int = _MOST) -> Series:
    """At most `most` points: the lowest and the highest of each stretch, and the last of all."""
    if len(curve) <= most:
        return curve
    width = math.ceil(2 * len(curve) / most)
    kept: set[int] = {0, len(curve) - 1}
    for start in range(0, len(curve), width):
        stretch = range(start, min(start + width, len(curve)))
        kept |= {min(stretch, key=curve.values.__getitem__)}
        kept |= {max(stretch, key=curve.values.__getitem__)}
    order = sorted(kept)
    return Series([curve.steps[i] for i in order], [curve.values[i] for i in order])


def _is_finite(value: Any) -> TypeGuard[float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
