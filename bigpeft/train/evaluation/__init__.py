"""Held-out rows: read, scored and answered over all ranks, and what that says about the run."""

from bigpeft.train.evaluation.evaluate import evaluate
from bigpeft.train.evaluation.patience import Patience
from bigpeft.train.evaluation.result import Result
from bigpeft.train.evaluation.task import Asked, Task

__all__ = ["Asked", "Patience", "Result", "Task", "evaluate"]
