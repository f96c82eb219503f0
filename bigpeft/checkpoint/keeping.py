"""Which checkpoints stay: the newest, the best by a figure, and every so many steps one."""

import contextlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bigpeft.checkpoint.manifest import MANIFEST
from bigpeft.metrics import lower_is_better

META = "meta.json"
UNFINISHED = ".tmp"
_PREFIX = "step-"


@dataclass(frozen=True)
class Keep:
    """`newest` of them, the one that is best by the figure `best`, such as eval_loss, and those
    whose step is a multiple of `every`.
    """

    newest: int
    best: str | None = None
    every: int | None = None


def folder_of(step: int) -> str:
    """step-000100"""
    return f"{_PREFIX}{step:06d}"


def step_of(folder: Path) -> int:
    """100 for step-000100"""
    return int(folder.name.removeprefix(_PREFIX))


def by_step(root: Path) -> list[Path]:
    """Checkpoint folders under their final names, oldest first."""
    found = root.glob(f"{_PREFIX}*")
    return sorted((p for p in found if p.name.removeprefix(_PREFIX).isdigit()), key=step_of)


def complete(root: Path) -> list[Path]:
    """Those of them that were written to their end."""
    return [path for path in by_step(root) if (path / MANIFEST).exists()]


def superfluous(root: Path, keep: Keep) -> list[Path]:
    """Checkpoints that do not stay."""
    whole = complete(root)
    stay = set(whole[-keep.newest :])
    if keep.every is not None:
        stay |= {p for p in whole if step_of(p) % keep.every == 0}
    if keep.best is not None and (best := best_of(whole, keep.best)):
        stay.add(best)
    return [path for path in whole if path not in stay]


def best_of(checkpoints: Sequence[Path], figure: str) -> Path | None:
    """The earliest of those that were evaluated with the best value; None where none was."""
    sign = 1.0 if lower_is_better(figure) else -1.0
    values = {path: _figure(path, figure) for path in checkpoints}
    known = {path: sign * value for path, value in values.items() if value is not None}
    return min(known, key=known.__getitem__, default=None)


def half_written(root: Path) -> list[Path]:
    """What an earlier crash left in the middle of writing or deleting."""
    return sorted(root.glob(f"{_PREFIX}*{UNFINISHED}"))


def delete(folder: Path) -> None:
    """Take its name away first: what is half deleted is no checkpoint, and goes with the next."""
    doomed = folder.with_name(f"{folder.name}.old{UNFINISHED}")
    with contextlib.suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _figure(path: Path, name: str) -> float | None:
    """None where it was not measured at this step, or is no number."""
    try:
        value = float(json.loads((path / META).read_text())["evaluation"][name])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if math.isnan(value) else value
