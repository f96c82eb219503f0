"""What held-out rows are judged by: pure functions of numbers per row, one file per metric."""

import sys

from bigpeft.metrics.base import Measured, Metric, Options
from bigpeft.metrics.figure import Figure
from bigpeft.registry import scan

__all__ = ["Figure", "Measured", "Metric", "Options", "lower_is_better", "metrics"]


def metrics() -> dict[str, type[Metric]]:
    """Name → class of every metric."""
    return scan(sys.modules[__name__], Metric, frozenset({"base", "figure"}))


def lower_is_better(name: str) -> bool:
    """Of a metric, or of what files call it: eval_loss, eval_TASK_perplexity."""
    ends = [known for known in metrics() if name == known or name.endswith(f"_{known}")]
    return metrics()[max(ends, key=len)].lower_is_better
