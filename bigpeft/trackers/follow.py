"""The process of one tracker: it reads metrics.jsonl as it grows until it is told how it ended."""

import json
import math
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml

from bigpeft.trackers import trackers
from bigpeft.trackers.base import Ending, Run, Tracker

_LOOK_EVERY = 0.5  # seconds


def main(name: str, run: str) -> int:
    """Follow the run that the JSON `run` describes. Returns the exit code; 1 says why in a file."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are the run's, which says what came of them
    told = json.loads(run)
    opened = Run(**told | {"folder": Path(told["folder"])})
    notes = opened.folder / "tracking"
    try:
        _track(trackers()[name], opened, notes / f"{name}.json")
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        (notes / f"{name}.error").write_text(reason + "\n", encoding="utf-8")
        return 1
    return 0


def _track(kind: type[Tracker], run: Run, note: Path) -> None:
    known = json.loads(note.read_text()) if note.exists() else {}
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8"))
    run = replace(run, identifier=known.get("id"), recipe=recipe)
    tracker = kind(run)
    note.write_text(json.dumps({"id": tracker.identifier}))
    rows = Rows(run.folder / "metrics.jsonl")
    ending: Ending | None = None
    first = run.start == 0
    while ending is None:
        ending = _told()
        for row in rows.new():
            if first:
                _log(tracker, 0, _before(run.folder))
                first = False
            if row["step"] > run.start:
                _log(tracker, row["step"], row)
    tracker.close(ending)


def _told() -> Ending | None:
    """How the run ended, None while it goes on; one that has died without a word has failed."""
    if not select.select([0], [], [], _LOOK_EVERY)[0]:
        return None
    word = os.read(0, 64).decode()
    return next((ending for ending in get_args(Ending) if ending == word), "failed")


def _log(tracker: Tracker, step: int, row: Mapping[str, Any]) -> None:
    if found := scalars(row):
        tracker.log(step, found)


def _before(folder: Path) -> dict[str, Any]:
    """The evaluation before the first step, where there was one."""
    path = folder / "before.json"
    return json.loads(path.read_text()) if path.exists() else {}


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a row under train/, eval/ and system/, and tokens per second."""
    found = {
        _name(key): float(value)
        for key, value in row.items()
        if key != "step" and isinstance(value, int | float) and math.isfinite(value)
    }
    if row.get("tokens") and row.get("seconds"):
        found["train/tokens_per_second"] = row["tokens"] / row["seconds"]
    return found


def _name(key: str) -> str:
    if key == "memory_bytes":
        return "system/memory_bytes"
    room, _, rest = key.partition("_")
    return f"eval/{rest}" if room == "eval" else f"train/{key}"


class Rows:
    """The lines of a growing file, each once; a half-written one waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._seen)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._seen += len(line)
                yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
