"""One start of a command: signals reach the run, and nothing of it lives on when it has ended."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self

from bigpeft.errors import FileError
from bigpeft.train.orphans import Orphans
from bigpeft.train.stops import STOP

_LOOK = 0.1
_STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class Signals:
    """Hears SIGINT, and what asks for a stop, while its with statement lasts.

    What was ignored before, as under nohup, stays so. To be entered in the main thread.
    """

    def __init__(self) -> None:
        self._heard: list[int] = []
        self._taken = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, *_STOPPING):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def interrupted(self) -> bool:
        """Whether there was a SIGINT."""
        return signal.SIGINT in self._heard

    @property
    def stop(self) -> bool:
        """Whether a signal asked for a save and a stop."""
        return any(number in _STOPPING for number in self._heard)

    def take(self) -> list[int]:
        """Those since the last call."""
        new = self._heard[self._taken :]
        self._taken += len(new)
        return new

    def pause(self, seconds: float) -> None:
        """Wait, not longer than until any signal has been heard."""
        until = time.monotonic() + seconds
        while not self._heard and (left := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK, left))

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._heard.append(number)


def attempt(words: Sequence[str], folder: Path, signals: Signals, orphans: Orphans) -> int:
    """Run a command to its end; its exit code, or minus the signal that it died of.

    SIGINT goes on to its process group, as from a terminal; a signal that asks for a stop becomes
    the file that all ranks look for, since DeepSpeed's launcher does not hand it on. Raises
    FileError for a program that cannot be started.
    """
    stop = folder / STOP
    try:
        process = _start(words)
        while (code := process.poll()) is None:
            for number in signals.take():
                if number == signal.SIGINT:
                    os.killpg(process.pid, number)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    stop.touch()
            time.sleep(_LOOK)
    finally:
        orphans.end()
        if signals.stop:
            stop.unlink(missing_ok=True)
    return code


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(words, start_new_session=True)
    except OSError as error:
        raise FileError(
            words[0], f"cannot be started ({error.strerror})", "check the path and its permissions"
        ) from error
