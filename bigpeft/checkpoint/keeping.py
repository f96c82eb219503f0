"""Which checkpoints stay: the newest, the best by held-out loss, and every so many steps one."""

import contextlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bigpeft.checkpoint.manifest import MANIFEST

META = "meta.json"
UNFINISHED = ".tmp"
_PREFIX = "step-"


@dataclass(frozen=True)
class Keep:
    """`newest` of them, the `best` one, and those whose step is a multiple of `every`."""

    newest: int
    best: bool = False
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


def superfluous(root: Path, keep: Keep) -> list[Path]:
    """Checkpoints that do not stay."""
    whole = [path for path in by_step(root) if (path / MANIFEST).exists()]
    stay = set(whole[-keep.newest :])
    if keep.every is not None:
        stay |= {p for p in whole if step_of(p) % keep.every == 0}
    best = min(whole, key=_eval_loss, default=None) if keep.best else None
    return [path for path in whole if path not in stay and path != best]


def half_written(root: Path) -> list[Path]:
    """What an earlier crash left in the middle of writing or deleting."""
    return sorted(root.glob(f"{_PREFIX}*{UNFINISHED}"))


def delete(folder: Path) -> None:
    """Take its name away first: what is half deleted is no checkpoint, and goes with the next."""
    doomed = folder.with_name(f"{folder.name}.old{UNFINISHED}")
    with contextlib.suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _eval_loss(path: Path) -> float:
    """Infinity where nothing was evaluated at its step."""
    try:
        loss = json.loads((path / META).read_text()).get("eval_loss")
    except (OSError, ValueError, AttributeError):
        return float("inf")
    return float("inf") if loss is None else float(loss)
