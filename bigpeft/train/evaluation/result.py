"""What an evaluation found: a figure per task and metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigpeft.metrics import Figure
from bigpeft.recipe import HELD_OUT, figure_name


@dataclass(frozen=True)
class Result:
    """Task → metric → figure, in the order of the recipe."""

    figures: Mapping[str, Mapping[str, Figure]]

    def as_metrics(self) -> dict[str, float]:
        """For metrics.jsonl: eval_loss, eval_accuracy, eval_TASK_METRIC."""
        return {
            figure_name(task, metric): figure.value
            for task, own in self.figures.items()
            for metric, figure in own.items()
        }

    def as_json(self) -> dict[str, Any]:
        """For eval.json: every figure with its interval and the rows behind it."""
        return {
            task: {metric: figure.as_json() for metric, figure in own.items()}
            for task, own in self.figures.items()
        }

    def lines(self, when: str) -> list[str]:
        """For the terminal, one per task."""
        return [
            f"{'held-out' if task == HELD_OUT else task} {when}: "
            + ", ".join(f"{metric} {_shown(figure)}" for metric, figure in own.items())
            for task, own in self.figures.items()
        ]


def _shown(figure: Figure) -> str:
    return f"{figure.value:.4f}" if figure.value < 1e4 else f"{figure.value:.3g}"
