"""Writes the checkpoints of a run: at once, or behind the training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bigpeft.checkpoint.keeping import Keep
from bigpeft.checkpoint.save import save
from bigpeft.checkpoint.snapshot import Snapshot
from bigpeft.errors import CheckpointError


class Writer:
    """One checkpoint at a time; all calls are made by all ranks alike.

    Ranks talk about files in a group of their own, so that a save in the background does not come
    between the collectives of the training. `say` tells of damage and of failures.
    """

    def __init__(
        self, root: Path, keep: Keep, background: bool, say: Callable[[str], None]
    ) -> None:
        self._root, self._keep, self._say = root, keep, say
        self._group: Any = dist.new_group(backend="gloo")
        self._thread = ThreadPoolExecutor(1) if background else None
        self._pending: Future[list[str]] | None = None

    def write(self, snapshot: Snapshot) -> None:
        """Write it, or begin to. `self.wait()` has to come before the snapshot is taken.

        Raises CheckpointError where it is written at once and cannot be.
        """
        if self._thread is None:
            self._tell(save(self._root, snapshot, self._keep, self._group))
            return
        self._pending = self._thread.submit(save, self._root, snapshot, self._keep, self._group)

    def look(self) -> None:
        """Tell of a write in the background that has ended meanwhile; no need to call it."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Until the last write has ended. One that failed is told of, and no error: the run has
        gone on, and an older checkpoint is whole.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            self._tell(pending.result())
        except CheckpointError as error:
            self._say(f"a checkpoint was not written: {error}")

    def finish(self) -> None:
        """Nothing more is written. Raises CheckpointError where the last write failed."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._pending is not None:
            self._tell(self._pending.result())
        dist.destroy_process_group(self._group)

    def _tell(self, remarks: list[str]) -> None:
        for remark in remarks:
            self._say(remark)
