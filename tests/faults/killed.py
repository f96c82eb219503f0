"""Runs of which one rank, or all, are killed at a moment of their saves.

A moment is the number of a system call on the checkpoints' folder, which Python announces to its
audit hooks; the process kills itself just before it makes that call.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bigpeft.train.metrics import read_rows
from tests.train.runs import train_here
from tests.worlds import end, free_port, join, processes


def killed_at(folder: Path, overrides: Sequence[str], rank: int, moment: int) -> None:
    """A run on two ranks of which `rank` dies before call number `moment` (from 0)."""
    _run(folder, overrides, ("call", rank, moment))


def killed_after(folder: Path, overrides: Sequence[str], steps: int, seconds: float) -> None:
    """A run on two ranks that are killed together, so long after so many steps."""
    _run(folder, overrides, ("time", steps, seconds))


def calls(folder: Path, overrides: Sequence[str], rank: int) -> list[str]:
    """What `rank` does to the checkpoints' folder in a run that nobody kills."""
    return _run(folder, overrides, ("listen", rank, 0))


def _run(folder: Path, overrides: Sequence[str], fault: tuple[str, int, float]) -> list[str]:
    context = processes()
    heard, port = context.SimpleQueue(), free_port()
    ranks = [
        context.Process(target=_rank, args=(rank, port, folder, list(overrides), fault, heard))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    if fault[0] == "time":
        _kill_later(folder / "metrics.jsonl", ranks, *fault[1:])
    told = heard.get() if fault[0] == "listen" else []
    end(ranks)
    killed = [process.exitcode == -signal.SIGKILL for process in ranks]
    assert fault[0] == "listen" or any(killed), "the run ended before the fault"
    return told


def _kill_later(metrics: Path, ranks: Sequence[BaseProcess], steps: int, seconds: float) -> None:
    while not metrics.exists() or len(read_rows(metrics)) < steps:
        time.sleep(0.002)
    time.sleep(seconds)
    for process in ranks:
        process.kill()


def _rank(
    rank: int,
    port: int,
    folder: Path,
    overrides: list[str],
    fault: tuple[str, int, float],
    heard: Any,
) -> None:
    join(rank, 2, port)
    kind, victim, moment = fault
    listener = _Listener(folder / "checkpoints", int(moment) if kind == "call" else None)
    if rank == victim and kind != "time":
        sys.addaudithook(listener)
    train_here(folder, overrides)
    if rank == victim and kind == "listen":
        heard.put(listener.heard)


class _Listener:
    """Counts calls on a folder; kills the process before the one of this number."""

    def __init__(self, root: Path, fatal: int | None) -> None:
        self._root, self._fatal = str(root), fatal
        self._lock = threading.Lock()
        self.heard: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        paths = [str(a) for a in arguments[:2] if isinstance(a, str | Path)]
        if not any(path.startswith(self._root) for path in paths):
            return
        with self._lock:
            if len(self.heard) == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            self.heard.append(f"{event} {paths[0].removeprefix(self._root)}")
