"""Writes the checkpoints of a run: at once, or behind the training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bigpeft.checkpoint.keeping import Keep
from bigpeft.checkpoint.save import drop_old, save
from bigpeft.checkpoint.snapshot import HostCopies, Snapshot
from bigpeft.errors import CheckpointError


class Writer:
    """One checkpoint at a time; all calls are made by all ranks alike.

    Files are the work of one thread, and ranks talk about them in a group of their own, so that
    what is done in the background does not come between the collectives of the training: the
    writing itself if `background` is true, and always the end of older checkpoints. `say` tells of
    damage and of failures.
    """

    def __init__(
        self, root: Path, keep: Keep, background: bool, say: Callable[[str], None]
    ) -> None:
        self._root, self._keep, self._say = root, keep, say
        self._copies = HostCopies() if background else None
        self._group: Any = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1)
        self._copying: Future[Snapshot] | None = None
        self._pending: Future[list[str]] | None = None

    def write(self, snapshot: Snapshot) -> None:
        """Write it, or begin to. `self.wait()` has to come before the snapshot is taken, and
        `self.wait_for_copies()` before the next update.

        Raises CheckpointError where it is written at once and cannot be.
        """
        if self._copies is not None:
            self._copying = self._thread.submit(self._copies.of, snapshot)
            self._pending = self._thread.submit(self._save_copies, self._copying)
        else:
            new = self._thread.submit(save, self._root, snapshot, self._group).result()
            self._pending = self._thread.submit(self._drop_old, new)

    def wait_for_copies(self) -> None:
        """Until the last snapshot needs the state of the training no longer."""
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.result()

    def look(self) -> None:
        """Tell of work in the background that has ended meanwhile; no need to call it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is going on. A write that failed is told of, and no error: the run has
        gone on, and an older checkpoint is whole.
        """
        try:
            self._finish_pending()
        except CheckpointError as error:
            self._say(f"a checkpoint was not written: {error}")

    def finish(self) -> None:
        """Nothing more is written. Raises CheckpointError where the last write failed."""
        self._thread.shutdown()
        self._finish_pending()
        dist.destroy_process_group(self._group)

    def _save_copies(self, copied: Future[Snapshot]) -> list[str]:
        return self._drop_old(save(self._root, copied.result(), self._group))

    def _drop_old(self, new: Path) -> list[str]:
        return drop_old(self._root, new, self._keep, self._group)

    def _finish_pending(self) -> None:
        pending, self._pending = self._pending, None
        for remark in pending.result() if pending is not None else []:
            self._say(remark)
