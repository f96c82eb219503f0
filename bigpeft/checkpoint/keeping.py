"""Which checkpoints stay: the newest, the best by held-out loss, and every so many steps one."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from bigpeft.checkpoint.manifest import MANIFEST

META = "meta.json"


@dataclass(frozen=True)
class Keep:
    """`newest` of them, the `best` one, and those whose step is a multiple of `every`."""

    newest: int
    best: bool = False
    every: int | None = None


def by_step(root: Path) -> list[Path]:
    """Checkpoint folders under their final names, oldest first."""
    found = {path: path.name.removeprefix("step-") for path in root.glob("step-*")}
    return sorted((p for p, step in found.items() if step.isdigit()), key=lambda p: int(found[p]))


def drop_old(root: Path, keep: Keep) -> None:
    """Delete the others, and what an earlier crash left half-written."""
    for path in root.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    whole = [path for path in by_step(root) if (path / MANIFEST).exists()]
    stay = set(whole[-keep.newest :])
    if keep.every is not None:
        stay |= {p for p in whole if int(p.name.removeprefix("step-")) % keep.every == 0}
    best = min(whole, key=_eval_loss, default=None) if keep.best else None
    for path in whole:
        if path not in stay and path != best:
            shutil.rmtree(path, ignore_errors=True)


def _eval_loss(path: Path) -> float:
    """Infinity where nothing was evaluated at its step."""
    try:
        loss = json.loads((path / META).read_text()).get("eval_loss")
    except (OSError, ValueError, AttributeError):
        return float("inf")
    return float("inf") if loss is None else float(loss)
