"""What is due after a step: every so many steps, or every so many minutes."""

import time

import torch
import torch.distributed as dist

from bigpeft.recipe import seconds_of


def due(every: int | None, step: int) -> bool:
    """Whether something that happens every so many steps happens after step `step` (from 1)."""
    return every is not None and step % every == 0


class SaveTimes:
    """When to save: `every` is steps, a span of time such as 30min, or None for never."""

    def __init__(self, every: int | str | None, device: torch.device) -> None:
        self._steps = every if isinstance(every, int) else None
        self._seconds = seconds_of(every) if isinstance(every, str) else None
        self._device = device
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after this step, the same on all ranks; collective where time counts,
        which is that of the first rank's clock.
        """
        if self._seconds is None:
            return due(self._steps, step)
        late = torch.tensor(time.monotonic() - self._last >= self._seconds, dtype=torch.int32)
        late = late.to(self._device)
        dist.broadcast(late, 0)
        return bool(late)

    def saved(self) -> None:
        """Time counts from here."""
        self._last = time.monotonic()
