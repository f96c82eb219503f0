"""A new file that is written past the page cache, while its next bytes are made.

Copying into the page cache costs a core more than the disk needs, and drives out files that are
still to be read: benchmarks/merge.py measures it. Where a file system has no such writes, the same
file is written through the cache.
"""

import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

_BUFFER = 8 << 20
_BLOCK = 4096


class DirectFile:
    """To be used in a with statement, whose end puts the file on disk. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._descriptor = _open(path)
        # Two, filled and written in turn; their memory begins at a page, as direct writes want.
        self._filling, self._other = (memoryview(mmap.mmap(-1, _BUFFER)) for _ in range(2))
        self._held = self._size = 0
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def write(self, piece: memoryview | bytes) -> None:
        """Append these bytes."""
        rest = memoryview(piece)
        while rest:
            part = rest[: _BUFFER - self._held]
            self._filling[self._held : self._held + len(part)] = part
            self._held += len(part)
            rest = rest[len(part) :]
            if self._held == _BUFFER:
                self._put(_BUFFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._writer.shutdown()
            os.close(self._descriptor)

    def _finish(self) -> None:
        """The last block whole, then cut to size."""
        self._put(-(-self._held // _BLOCK) * _BLOCK)
        self._wait()
        os.ftruncate(self._descriptor, self._size)
        os.fsync(self._descriptor)

    def _put(self, nbytes: int) -> None:
        """Have the buffer written, and go on with the other one."""
        self._wait()
        self._writing = self._writer.submit(self._write, self._filling[:nbytes])
        self._filling, self._other = self._other, self._filling
        self._size += self._held
        self._held = 0

    def _write(self, block: memoryview) -> None:
        if os.write(self._descriptor, block) != len(block):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)
