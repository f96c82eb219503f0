"""Processes that outlive the one that started them.

DeepSpeed's ranks stay in the process group of its launcher, torchrun's have sessions of their own;
the kernel gives both to the process that asks for its orphans.
"""

import ctypes
import os
import time
from contextlib import suppress
from typing import Self

import psutil

_GRACE = 30.0  # as DeepSpeed's launcher gives its ranks: they finish the step and save
_LOOK = 0.1
_PR_SET_CHILD_SUBREAPER = 36


class Orphans:
    """Within its with statement this process becomes the parent of descendants that lose theirs.

    Only those that were started within it are ended.
    """

    def __enter__(self) -> Self:
        self._others = _descendants()
        _adopt(True)
        return self

    def __exit__(self, *_: object) -> None:
        _adopt(False)

    def end(self, grace: float = _GRACE) -> None:
        """SIGTERM to every process that is left, SIGKILL to what is alive `grace` seconds later.

        Returns when none is left; what not even SIGKILL ends is waited for as long again.
        """
        told: set[psutil.Process] = set()
        kill_at = time.monotonic() + grace
        while (left := self._alive()) and time.monotonic() < kill_at + grace:
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    if time.monotonic() >= kill_at:
                        process.kill()
                    elif process not in told:
                        process.terminate()
            told |= left
            time.sleep(_LOOK)

    def _alive(self) -> set[psutil.Process]:
        return {process for process in _descendants() - self._others if not _is_over(process)}


def _descendants() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _is_over(process: psutil.Process) -> bool:
    """Whether it has ended; one that nobody asked for its exit code is asked here."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return False
    except psutil.NoSuchProcess:
        return True
    with suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return True


def _adopt(yes: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(yes), 0, 0, 0)
