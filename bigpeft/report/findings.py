"""What somebody who reads a report should not miss: everything about a run that is not as hoped."""

import statistics
from collections.abc import Callable
from typing import Any

from bigpeft.report.record import Record
from bigpeft.report.series import series

_ENOUGH_STEPS = 20
_MANY = 0.05
_WORSE = 1.02


def findings(record: Record) -> list[str]:
    """Sentences, the gravest first."""
    found: list[str] = []
    for look in _LOOKS:
        found += look(record)
    return found


def _ending(record: Record) -> list[str]:
    status = record.status
    if status is None:
        return ["The folder does not tell how far the run is: run.json is missing or broken."]
    said = {
        "interrupted": "The run ended without a save: steps after its newest checkpoint will be "
        "done again.",
        "stopped": "The run was stopped before its last step; checkpoint.resume=auto goes on.",
        "running": "The run is still going on: this page shows it as far as it is.",
    }
    return [said[status.state]] if status.state in said else []


def _damage(record: Record) -> list[str]:
    broken = [f"{name} cannot be read." for name in record.unread]
    bad = [f"Checkpoint step {c.step}: {c.damage}." for c in record.checkpoints if c.damage]
    return broken + bad


def _course(record: Record) -> list[str]:
    loss = series(record.rows, "loss").values
    if len(loss) < _ENOUGH_STEPS:
        return []
    part = max(1, len(loss) // 10)
    first, last = statistics.mean(loss[:part]), statistics.mean(loss[-part:])
    if last < first:
        return []
    return [f"The training loss has not fallen: {first:.4f} at the start, {last:.4f} at the end."]


def _held_out(record: Record) -> list[str]:
    curve = series(record.rows, "eval_loss")
    if not len(curve):
        return ["Nothing was evaluated on held-out rows."] if record.rows else []
    best = min(curve.values)
    if curve.values[-1] <= best * _WORSE:
        return []
    step = curve.steps[curve.values.index(best)]
    return [
        f"The held-out loss was best at step {step} ({best:.4f}) and ended at "
        f"{curve.values[-1]:.4f}: the run may have learned its rows by heart."
    ]


def _gradients(record: Record) -> list[str]:
    bad = [r["step"] for r in record.rows if "grad_norm" in r and r["grad_norm"] is None]
    return [f"The gradient norm was not finite in {len(bad)} steps, first {bad[0]}."] if bad else []


def _rows(record: Record) -> list[str]:
    found = []
    for name, card in record.card.items():
        if not isinstance(card, dict):
            continue
        dropped, truncated = _number(card, "dropped"), _number(card, "truncated")
        rows = _number(card, "read") or _number(card, "rows") + dropped
        if dropped and dropped > _MANY * rows:
            found.append(
                f"{dropped} of the {name} rows ({dropped / rows:.0%}) were dropped for length."
            )
        if truncated and truncated > _MANY * rows:
            found.append(
                f"{truncated} of the {name} rows ({truncated / rows:.0%}) were truncated: what "
                "stands behind data.max_length was not learned."
            )
        if skipped := card.get("skipped"):
            found.append(f"{skipped} of the {name} rows could not be used and were skipped.")
    return found


def _number(card: dict[str, Any], name: str) -> int:
    return card[name] if isinstance(card.get(name), int) else 0


def _restarts(record: Record) -> list[str]:
    steps = [str(start.get("step")) for start in record.starts[1:]]
    if not steps:
        return []
    often = "once" if len(steps) == 1 else f"{len(steps)} times"
    return [f"The run was started again {often}, at step {', '.join(steps)}."]


def _straggler(record: Record) -> list[str]:
    told = record.status and record.status.straggler
    return [f"{told[0].upper()}{told[1:]}."] if told else []


def _trackers(record: Record) -> list[str]:
    return [
        f"The tracker {name} gave up: {reason or 'no reason is known'}."
        for name, reason in record.tracker_errors.items()
    ]


_LOOKS: tuple[Callable[[Record], list[str]], ...] = (
    _ending,
    _damage,
    _course,
    _gradients,
    _held_out,
    _rows,
    _straggler,
    _trackers,
    _restarts,
)
