"""A run that is told to stop from outside: by a signal to a rank, or by a file in its folder."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist

STOP = "stop"
_TOLD = {1: f"a file {STOP}", int(signal.SIGTERM): "SIGTERM", int(signal.SIGUSR1): "SIGUSR1"}


class Stops:
    """Listens while its with statement lasts, for SIGTERM, SIGUSR1 and `folder`/stop.

    A signal ends no step and no save: the run asks between steps. To be entered in the main thread.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._file, self._device = folder / STOP, device
        self._heard = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> str | None:
        """What told any rank to stop, None where nothing did. Collective over all ranks.

        The file has done its work then, and is deleted.
        """
        mine = self._heard or int(self._file.exists())
        told = torch.tensor(mine, device=self._device)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        if not told:
            return None
        self._file.unlink(missing_ok=True)
        return _TOLD[int(told)]

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._heard = number
