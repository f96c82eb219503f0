"""The run folder: self-describing, refused when it holds another run."""

import fcntl
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import torch

from bigpeft.errors import FileError
from bigpeft.plan import Plan
from bigpeft.plan.forecast import Forecast
from bigpeft.recipe import dump_recipe
from bigpeft.train.metrics import read_rows
from bigpeft.train.watch.ending import FAILURE
from bigpeft.world import World

LOCK, RUN = "lock", "run.json"
_ROOM = 1 << 12  # bytes: what tells a full disk from one with room
_PACKAGES = ("bigpeft", "torch", "deepspeed", "transformers", "bitsandbytes", "datasets")


@contextmanager
def open_run(folder: Path, resuming: bool, world: World) -> Iterator[None]:
    """Make the folder, and keep other runs out of it as long as the with statement lasts.

    Raises FileError where it cannot be written, holds a run already, or a run is going on there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{world.rank}"
        try:
            probe.write_bytes(bytes(_ROOM))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"run.folder: {folder}",
            f"cannot be written on {world.host} ({error.strerror})",
            "make room or mend its permissions, or choose another run.folder",
        ) from error
    if world.is_first and not resuming and (folder / "metrics.jsonl").exists():
        raise FileError(
            f"run.folder: {folder}",
            "holds a run already",
            "write checkpoint.resume=auto to go on with it, or choose another run.folder",
        )
    if not world.is_first:
        yield
        return
    with (folder / LOCK).open("a+") as lock:
        _take(lock, folder)
        yield


def _take(lock: TextIO, folder: Path) -> None:
    """A lock that the death of the process gives back; who holds it is written into the file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        raise FileError(
            f"run.folder: {folder}",
            f"is in use by another run ({lock.read().strip() or error.strerror})",
            "wait for it or stop it, or choose another run.folder",
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {platform.node()}\n")
    lock.flush()


def describe_run(
    folder: Path, plan: Plan, steps: int, done: int, expected: Forecast | None
) -> None:
    """Write recipe.yaml (resolved), run.json, ds_config.json and environment.json.

    Earlier starts of the same run stay in run.json; `done` steps were made in them. What ended the
    last one is forgotten.
    """
    (folder / FAILURE).unlink(missing_ok=True)
    start = {"step": done, "time": time.time(), "world_size": plan.world.size}
    starts = [*_starts(folder), start]
    told = {"steps": steps, "starts": starts, "plan": planned(plan)}
    write_json(folder / RUN, told | ({"forecast": expected.per_rank} if expected else {}))
    (folder / "recipe.yaml").write_text(dump_recipe(plan.recipe))
    write_json(folder / "ds_config.json", plan.ds_config)
    write_json(folder / "environment.json", environment(plan.world))


def _starts(folder: Path) -> list[object]:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return list(json.loads((folder / RUN).read_text())["starts"])
    return []


def planned(plan: Plan) -> dict[str, object]:
    """What the plan decided, for people. Bytes are those of one rank but for the total."""
    return {
        "precision": plan.precision,
        "stage": plan.stage,
        "world_size": plan.world.size,
        "backbone_shared_by_ranks": plan.group_size,
        "backbone_shared_because": plan.group_reason,
        "accumulation_steps": plan.accumulation_steps,
        "learning_rate": plan.learning_rate,
        "seats": len(plan.seated),
        "trainable": plan.trainable,
        "packed_bytes": plan.held.packed,
        "packed_total_bytes": plan.held.packed_total,
        "held_bytes": plan.held.sum,
    }


def end_at(folder: Path, world: World) -> None:
    """Note in run.json that the run has no more steps than those it has made."""
    if world.is_first:
        done = max((row["step"] for row in read_rows(folder / "metrics.jsonl")), default=0)
        known = json.loads((folder / RUN).read_text())
        write_json(folder / RUN, {**known, "steps": done, "planned": known["steps"]})


def environment(world: World) -> dict[str, object]:
    """Versions, machine and world: what one needs to repeat the run."""
    accelerator = (
        torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "world": asdict(world),
        "accelerator": str(accelerator) if accelerator else "cpu",
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Of the packages that the numbers depend on."""
    return {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def write_json(path: Path, content: object) -> None:
    """Write a whole JSON file or leave the old one."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)
