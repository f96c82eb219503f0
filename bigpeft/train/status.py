"""Where a run stands, told from its folder alone: while it runs, after its end, after a crash."""

import fcntl
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bigpeft.checkpoint import find, step_of
from bigpeft.errors import CheckpointError, FileError
from bigpeft.train.folder import LOCK, RUN
from bigpeft.train.metrics import read_rows
from bigpeft.train.pace import straggler
from bigpeft.train.watch.ending import FAILURE

State = Literal["running", "finished", "stopped", "interrupted"]
_RECENT = 20


@dataclass(frozen=True)
class Status:
    """`stopped` goes on without a loss, `interrupted` repeats the steps after its checkpoint.

    Ages and `seconds_left` in seconds. `checkpoint` is the newest that verifies, `damaged` tells of
    newer ones, `straggler` of a rank that holds up the others, `failure` of what a rank ended the
    run with. `loss` and what belongs to steps is None before the first one, and where a converted
    checkpoint is all there is.
    """

    state: State
    step: int
    steps: int
    loss: float | None
    step_age: float | None
    seconds_left: float | None
    checkpoint: str | None
    checkpoint_age: float | None
    damaged: tuple[str, ...]
    straggler: str | None
    failure: str | None


def read_status(folder: Path) -> Status:
    """Read a run folder; every file of the newest checkpoint is compared with its hash.

    Whether it runs is known to the machine that holds its lock, which is that of the first rank.
    Raises FileError for a folder that is no run's.
    """
    try:
        steps = int(json.loads((folder / RUN).read_text())["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            str(folder), f"is no run folder ({error})", "name the run.folder of a recipe"
        ) from error
    metrics = folder / "metrics.jsonl"
    rows = read_rows(metrics)
    running = _is_held(folder / LOCK)
    damaged: list[str] = []
    checkpoint = _newest_whole(folder / "checkpoints", damaged)
    saved = step_of(checkpoint) if checkpoint else 0
    step = rows[-1]["step"] if rows else saved
    return Status(
        state=_state(running, step, steps, saved),
        step=step,
        steps=steps,
        loss=rows[-1]["loss"] if rows else None,
        step_age=time.time() - metrics.stat().st_mtime if rows else None,
        seconds_left=_seconds_left(rows, steps) if running else None,
        checkpoint=checkpoint.name if checkpoint else None,
        checkpoint_age=time.time() - checkpoint.stat().st_mtime if checkpoint else None,
        damaged=tuple(damaged),
        straggler=straggler(rows),
        failure=_failure(folder / FAILURE),
    )


def _state(running: bool, step: int, steps: int, saved: int) -> State:
    if running:
        return "running"
    if saved != step:
        return "interrupted"
    return "finished" if step == steps else "stopped"


def _seconds_left(rows: list[dict[str, Any]], steps: int) -> float | None:
    """By the median of the last steps; evaluations and saves are not in it."""
    if not rows:
        return None
    usual = statistics.median(row["seconds"] for row in rows[-_RECENT:])
    return usual * (steps - rows[-1]["step"])


def _newest_whole(root: Path, damaged: list[str]) -> Path | None:
    try:
        return find(root, "auto", damaged.append)
    except CheckpointError:
        return None


def _failure(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        return None


def _is_held(lock: Path) -> bool:
    """Whether a living process has it."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
