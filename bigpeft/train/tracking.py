"""Trackers beside a run: started, watched, told how it ended, and done without when they fail."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from bigpeft.errors import RecipeError, StoppedEarly
from bigpeft.recipe import Tracking as Wanted
from bigpeft.trackers import trackers

_PATIENCE = 60.0  # seconds for what is still to be sent
_LESS_PATIENCE = 10.0  # where the run has failed


class Tracking:
    """The trackers of a recipe, within the with statement of a run; only the first rank has some.

    Raises RecipeError, before anything is loaded, for one whose library is missing.
    """

    def __init__(
        self,
        wanted: Wanted,
        folder: Path,
        is_first: bool,
        say: Callable[[str], None],
        patience: float = _PATIENCE,
    ) -> None:
        self._wanted, self._folder, self._say, self._patience = wanted, folder, say, patience
        self._names = wanted.trackers if is_first else ()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in self._names:
            _refuse_missing(name)

    def start(self, done: int) -> None:
        """Once metrics.jsonl holds the steps that are `done`, and no later one."""
        if self._names:
            (self._folder / "tracking").mkdir(exist_ok=True)
        run = {
            "folder": str(self._folder),
            "project": self._wanted.project,
            "name": self._wanted.name or self._folder.resolve().name,
            "start": done,
        }
        for name in self._names:
            self._error(name).unlink(missing_ok=True)
            command = [sys.executable, "-m", "bigpeft.trackers.follow", name, json.dumps(run)]
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
            except OSError as error:
                self._give_up(name, str(error.strerror))
            else:
                self._processes[name] = process

    def look(self) -> None:
        """Tell once of each that has ended before the run."""
        for name, process in list(self._processes.items()):
            if process.poll() is not None:
                self._give_up(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        ending = "finished" if kind is None else "stopped"
        if kind is not None and not issubclass(kind, StoppedEarly):
            ending = "failed"
        for process in self._processes.values():
            with contextlib.suppress(OSError):  # it is dead: the loop below tells
                assert process.stdin is not None
                process.stdin.write(ending.encode())
                process.stdin.close()
        patience = min(self._patience, _LESS_PATIENCE) if ending == "failed" else self._patience
        until = time.monotonic() + patience
        for name, process in list(self._processes.items()):
            try:
                if process.wait(max(0.0, until - time.monotonic())):
                    self._give_up(name)
            except subprocess.TimeoutExpired:
                _kill(process)
                self._give_up(name, f"it did not end within {patience:.0f} s")

    def _give_up(self, name: str, reason: str | None = None) -> None:
        """One line, which the report repeats; the run goes on."""
        self._processes.pop(name, None)
        note = self._error(name)
        if reason is not None or not note.exists():
            note.write_text((reason or "its process has died, run.log may say why") + "\n")
        self._say(f"tracker {name} gave up ({note.read_text().strip()}); the run is no worse")

    def _error(self, name: str) -> Path:
        return self._folder / "tracking" / f"{name}.error"


def _refuse_missing(name: str) -> None:
    kind = trackers()[name]
    if importlib.util.find_spec(kind.library) is None:
        raise RecipeError(
            "tracking.trackers",
            f"{name} is not installed",
            f"pip install 'bigpeft[{kind.extra}]', or leave it out",
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With everything that its library has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
