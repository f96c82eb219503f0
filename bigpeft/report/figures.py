"""The few numbers by which a run is known."""

import statistics
from dataclasses import dataclass

from bigpeft.report.record import Record
from bigpeft.report.scores import scores
from bigpeft.report.series import series, tokens_per_second

_END = 0.1


@dataclass(frozen=True)
class Figures:
    """None for what the run does not tell. Seconds of steps alone; memory of the fullest rank."""

    steps: int
    loss_first: float | None
    loss_last: float | None
    held_out: dict[str, tuple[float | None, float | None]]
    tokens: int
    tokens_per_second: float | None
    memory: float | None
    seconds: float | None
    trainable: int | None


def figures(record: Record) -> Figures:
    """Of one run; the last loss is the mean over its last tenth: one step alone is noise."""
    rows = record.rows
    loss = series(rows, "loss").values
    tail = loss[-max(1, round(len(loss) * _END)) :]
    speeds = series(rows, tokens_per_second).values
    memory = series(rows, "memory_bytes").values
    peaks = record.summary.get("peak_memory_bytes")
    every_rank = [p for p in peaks if isinstance(p, int)] if isinstance(peaks, list) else []
    seconds = series(rows, "seconds").values
    trainable = record.plan.get("trainable", record.summary.get("trainable_parameters"))
    return Figures(
        steps=rows[-1]["step"] if rows else 0,
        loss_first=loss[0] if loss else None,
        loss_last=statistics.mean(tail) if loss else None,
        held_out={
            f"{s.task} {s.metric}": (
                s.before.value if s.before else None,
                s.after.value if s.after else None,
            )
            for s in scores(record)
        },
        tokens=int(sum(series(rows, "tokens").values)),
        tokens_per_second=statistics.median(speeds) if speeds else None,
        memory=max([*every_rank, *memory], default=None),
        seconds=sum(seconds) if seconds else None,
        trainable=trainable if isinstance(trainable, int) else None,
    )
