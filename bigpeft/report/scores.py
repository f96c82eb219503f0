"""The evaluation of a run, before and after, with how sure each figure is."""

from dataclasses import dataclass
from typing import Any

from bigpeft.report.intervals import wilson
from bigpeft.report.record import Record


@dataclass(frozen=True)
class Score:
    """One figure; the bounds and the number of rows where they are known."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Scored:
    """One metric of one task at both moments."""

    task: str
    metric: str
    before: Score | None
    after: Score | None


def scores(record: Record) -> list[Scored]:
    """From eval.json, or from what the steps and summary.json say of the held-out rows."""
    moments = {moment: _told(record.evaluation.get(moment)) for moment in ("before", "after")}
    if not any(moments.values()):
        moments = {"before": _of_row(record, record.before), "after": _last(record)}
    keys = dict.fromkeys([*moments["before"], *moments["after"]])
    return [
        Scored(task, metric, moments["before"].get(key), moments["after"].get(key))
        for key in keys
        for task, metric in (key,)
    ]


Told = dict[tuple[str, str], Score]
_NAMES = {"held_out": "held-out"}


def _told(tasks: Any) -> Told:
    found: Told = {}
    for task, metrics in tasks.items() if isinstance(tasks, dict) else ():
        for metric, said in metrics.items() if isinstance(metrics, dict) else ():
            if isinstance(said, dict) and isinstance(said.get("value"), int | float):
                bounds = {k: said[k] for k in ("low", "high", "rows") if _is_number(said.get(k))}
                found[_NAMES.get(str(task), str(task)), str(metric)] = Score(
                    said["value"], **bounds
                )
    return found


def _last(record: Record) -> Told:
    evaluated = [row for row in record.rows if "eval_loss" in row]
    if evaluated:
        return _of_row(record, evaluated[-1])
    names = {"eval_loss_after": "eval_loss", "accuracy_after": "eval_accuracy"}
    known = {
        ours: record.summary[theirs] for theirs, ours in names.items() if theirs in record.summary
    }
    return _of_row(record, known)


def _of_row(record: Record, row: dict[str, Any]) -> Told:
    card = record.card.get("eval")
    rows = card.get("rows") if isinstance(card, dict) else None
    found: Told = {}
    for key, said in row.items():
        if not key.startswith("eval_") or not _is_number(said):
            continue
        low, high = None, None
        if key.endswith("accuracy") and rows and 0 <= said <= 1:
            low, high = wilson(said, rows)
        found["held-out", key.removeprefix("eval_")] = Score(said, low, high, rows)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
