"""The eval section: what a run is judged by while it trains."""

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from bigpeft.data import formats
from bigpeft.metrics import metrics
from bigpeft.recipe.section import Section
from bigpeft.recipe.values import NonNegativeFloat, NonNegativeInt, PositiveInt, one_of

HELD_OUT = "held_out"
"""The task that `eval.path` is; its figures are eval_loss and eval_accuracy."""

KEPT = "data.held_out"
"""The path that means the rows kept from training."""

_Metric = Annotated[str, one_of(sorted(metrics()))]


class EvalTask(Section):
    """One set of held-out rows and what is measured on it."""

    path: str | tuple[str, ...] = Field(description="file, folder, glob or hub name; or several")
    split: str | None = Field(None, description="split of a hub name or folder")
    format: Annotated[str, one_of(["auto", *sorted(formats())])] | None = Field(
        None, description="how a row is read; default: as data.format and data.columns say"
    )
    columns: dict[str, str] = Field({}, description="the format's column → the file's column")
    limit: PositiveInt | None = Field(None, description="use only the first rows")
    metrics: tuple[_Metric, ...] = Field(
        ("loss",), min_length=1, description="what is measured: see docs/evaluation.md"
    )
    choices: tuple[str, ...] = Field(
        (), description="accuracy, choice_accuracy: possible answers, the same in all rows"
    )
    choices_column: str | None = Field(
        None, description="choice_accuracy: the file's column with the row's own possible answers"
    )
    pattern: str | None = Field(
        None,
        description="exact_match: regular expression that finds the answer, its first group, in "
        "what is generated and in what is expected; the last find counts",
    )
    max_new_tokens: PositiveInt = Field(128, description="exact_match: tokens of an answer")

    @model_validator(mode="before")
    @classmethod
    def _one_metric_is_a_list(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("metrics"), str):
            return {**values, "metrics": [values["metrics"]]}
        return values

    @model_validator(mode="after")
    def _has_what_its_metrics_need(self) -> "EvalTask":
        needs = {metrics()[name].needs for name in self.metrics}
        if self.choices and self.choices_column:
            raise ValueError("has both choices and choices_column: keep one of them")
        if "options" in needs and not (self.choices or self.choices_column):
            raise ValueError("measures choices and names none: add choices or choices_column")
        if "parting" in needs and not self.choices:
            raise ValueError("measures accuracy and has no choices: add choices")
        if (self.choices or self.choices_column) and not needs & {"options", "parting"}:
            raise ValueError("has choices that no metric looks at: add choice_accuracy to metrics")
        if self.pattern is not None and "answers" not in needs:
            raise ValueError("has a pattern that no metric looks at: add exact_match to metrics")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"has a pattern that is no regular expression: {error}") from None
        return self


class Evaluation(Section):
    """Held-out rows: what is measured before, while and after a run trains, and when it is enough.

    Rows of `path` are read like the training rows; `tasks` have sources and metrics of their own.
    """

    path: str | tuple[str, ...] | None = Field(
        None,
        description="file, folder, glob or hub name; or several; data.held_out: the rows that this "
        "key keeps from training, the default where there are some",
    )
    split: str | None = Field(None, description="split of a hub name or folder")
    limit: PositiveInt | None = Field(None, description="use only the first rows")
    micro_size: PositiveInt = Field(8, description="rows per rank per forward pass")
    choices: tuple[str, ...] = Field(
        (), description="possible answers: also measure how often the right one is likeliest"
    )
    tasks: dict[str, EvalTask] = Field({}, description="name → more held-out rows, see below")
    samples: NonNegativeInt = Field(
        0, description="rows whose answers are generated before and after: samples.jsonl"
    )
    patience: PositiveInt | None = Field(
        None,
        description="end the run after this many evaluations in a row without a better "
        "checkpoint.best, or eval_loss",
    )
    min_delta: NonNegativeFloat = Field(
        0.0, description="patience: what counts as better, at least"
    )

    @model_validator(mode="after")
    def _judges_something(self) -> "Evaluation":
        if self.path is None and not self.tasks:
            raise ValueError("names no rows: add path or tasks, or data.held_out")
        if self.path is None and (self.choices or self.limit):
            raise ValueError("has choices or limit, which belong to path: move them to a task")
        if self.min_delta and self.patience is None:
            raise ValueError("has min_delta, which means nothing without patience: add patience")
        for name in self.tasks:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name == HELD_OUT:
                raise ValueError(
                    f"has a task named {name!r}: use letters, digits, - and _, not {HELD_OUT}"
                )
        if len(set(self.figures())) < len(self.figures()):
            raise ValueError("has tasks whose figures would have the same name: rename one")
        return self

    def measured(self) -> dict[str, tuple[str, ...]]:
        """Task → its metrics; `path` is the task held_out."""
        own = {name: tuple(dict.fromkeys(task.metrics)) for name, task in self.tasks.items()}
        if self.path is None:
            return own
        return {HELD_OUT: ("loss", "accuracy") if self.choices else ("loss",), **own}

    def figures(self) -> list[str]:
        """What metrics.jsonl calls the figures: eval_loss, eval_TASK_METRIC."""
        return [figure_name(t, metric) for t, own in self.measured().items() for metric in own]


def figure_name(task: str, metric: str) -> str:
    """eval_loss of the rows of `path`, eval_TASK_METRIC of others."""
    return f"eval_{metric}" if task == HELD_OUT else f"eval_{task}_{metric}"
