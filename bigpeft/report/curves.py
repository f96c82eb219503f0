"""The charts of one run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from bigpeft.report.chart import Line, histogram, lines
from bigpeft.report.record import Record
from bigpeft.report.series import Row, Series, gibibytes, series, smoothed, tokens_per_second
from bigpeft.report.words import number


@dataclass(frozen=True)
class Chart:
    """A drawing with its heading."""

    title: str
    drawing: Markup


def curves(record: Record) -> list[Chart]:
    """Everything that was measured step by step; several starts make one record."""
    marks = [s["step"] for s in record.starts[1:] if isinstance(s.get("step"), int)]
    charts = []
    loss = series(record.rows, "loss")
    if len(loss):
        drawn = [Line(loss, faint=True), Line(smoothed(loss))]
        charts.append(_chart("loss", "Training loss", "nats per token", drawn, marks))
    for key in evaluated(record):
        line = Line(held_out(record, key), colour=1, dotted=True)
        unit = "nats per token" if key == "eval_loss" else ""
        charts.append(_chart(key.replace("_", "-"), title_of(key), unit, [line], marks))
    for name, title, unit, value in _PER_STEP:
        curve = series(record.rows, value)
        if len(curve):
            charts.append(_chart(name, title, unit, [Line(curve, colour=2)], marks))
    return charts


def evaluated(record: Record) -> list[str]:
    """Keys of what was measured on held-out rows between the steps, the loss first."""
    keys = dict.fromkeys(key for row in record.rows for key in row if key.startswith("eval_"))
    measured = [key for key in keys if len(series(record.rows, key))]
    return sorted(measured, key=lambda key: key != "eval_loss")


def held_out(record: Record, key: str) -> Series:
    """Its course; the evaluation before the first step stands at step 0."""
    curve = series(record.rows, key)
    start = series([{"step": 0, "value": record.before.get(key)}], "value")
    return Series(start.steps + curve.steps, start.values + curve.values) if len(curve) else curve


def title_of(key: str) -> str:
    """Held-out accuracy, for eval_accuracy."""
    return f"Held-out {key.removeprefix('eval_').replace('_', ' ')}"


def lengths(name: str, told: Any) -> Markup | None:
    """The histogram of a data card, None where it has none."""
    try:
        counts, width = [int(count) for count in told["counts"]], int(told["width"])
        longest = told["longest"]
    except (TypeError, KeyError, ValueError):
        return None
    if not counts:
        return None
    alt = f"Lengths of {sum(counts)} rows, the longest has {longest} tokens"
    return histogram(f"lengths-{name}", alt, counts, width, "tokens per row")


def _chart(name: str, title: str, unit: str, drawn: list[Line], marks: list[int]) -> Chart:
    curve = drawn[-1].curve
    first, last = number(curve.values[0]), number(curve.values[-1])
    alt = f"{title}: {first} at step {curve.steps[0]}, {last} at step {curve.steps[-1]}"
    heading = f"{title}, {unit}" if unit else title
    return Chart(heading, lines(name, alt, drawn, marks))


_PER_STEP: tuple[tuple[str, str, str, str | Callable[[Row], Any]], ...] = (
    ("rate", "Learning rate", "", "learning_rate"),
    ("norm", "Gradient norm", "", "grad_norm"),
    ("speed", "Speed", "tokens per second", tokens_per_second),
    ("memory", "Peak memory of the first rank", "GiB", gibibytes),
    ("penalty", "Penalty of the constraints", "", "penalty"),
)
