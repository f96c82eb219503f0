"""A folder of safetensors that is written tensor by tensor, goes on after an interruption, and gets
its name when it is whole.

Work goes into OUT.part. Finished files are listed there with their hashes, so the next attempt of
the same kind keeps them.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch import Tensor

from bigpeft.backbone.copies.ahead import ahead
from bigpeft.backbone.copies.writer import (
    Bundle,
    entries_of,
    refuse_existing,
    shard_name,
    shards,
    unwritable,
    write_file,
    write_index,
)
from bigpeft.errors import FileError

_DONE, _LOCK = "done.json", "lock"
_COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")
_ROOM = 1.02
_PIECES_AT_ONCE = 4


class StreamedFolder:
    """`identity` says what an interrupted attempt must share with the one that goes on; `new_hash`
    starts the hash of a file.

    To be used in a with statement, which one process at a time may enter. Raises FileError where
    `out` is there, has no room for the tensors, or cannot be written.
    """

    def __init__(
        self,
        out: Path,
        bundles: Sequence[Bundle],
        shard_bytes: int,
        identity: Mapping[str, Any],
        new_hash: Callable[[], Any] = hashlib.sha256,
    ) -> None:
        refuse_existing(out)
        self.out, self.part = out, out.with_name(out.name + ".part")
        self.cut = shards(bundles, shard_bytes)
        self.nbytes = sum(bundle.nbytes for bundle in bundles)
        self._new_hash = new_hash
        self._identity = {**identity, "shard_bytes": shard_bytes}
        self._done: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._lock = self._alone()
        try:
            refuse_existing(self.out)
            self._done = self._finished()
            self._refuse_lack_of_room()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if error is not None and not self._done:
            shutil.rmtree(self.part, ignore_errors=True)
        self._lock.close()
        if isinstance(error, OSError):
            raise unwritable(self.out, error) from error

    def write(
        self,
        make: Callable[[Bundle, int], Sequence[Tensor]],
        workers: int,
        progress: Callable[[int, int], None],
        note: Callable[[str], Any] = lambda name: None,
    ) -> None:
        """Write every file that is not there yet, and the index.

        `make` gives the tensors of a bundle, or those of its piece with this number (from 0); it is
        called in `workers` threads.

        `note` is asked about every bundle once it is written; see `notes`. `progress` gets
        (bytes written, bytes in all).
        """
        written = 0
        for number, shard in enumerate(self.cut):
            name = shard_name(number, len(self.cut))
            if name not in self._done:
                pieces = [(bundle, n) for bundle in shard for n in range(bundle.pieces)]
                made = ahead(_without_grad(make), pieces, workers, _size)
                tensors = self._told(made, written, progress)
                found = write_file(self.part / name, entries_of(shard), tensors, self._new_hash)
                nbytes = (self.part / name).stat().st_size
                notes = {bundle.name: note(bundle.name) for bundle in shard}
                self._done[name] = {"bytes": nbytes, "hash": found, "notes": notes}
                self._remember()
            written += sum(bundle.nbytes for bundle in shard)
            progress(written, self.nbytes)
        write_index(self.part, self.cut)

    def _told(
        self,
        made: Iterable[Sequence[Tensor]],
        written: int,
        progress: Callable[[int, int], None],
    ) -> Iterator[Tensor]:
        for tensors in made:
            for tensor in tensors:
                yield tensor
                written += tensor.nbytes
            progress(written, self.nbytes)

    @property
    def files(self) -> dict[str, tuple[int, str]]:
        """File → its bytes and hash."""
        return {name: (done["bytes"], done["hash"]) for name, done in sorted(self._done.items())}

    @property
    def hash_name(self) -> str:
        """Which hash that is."""
        return str(self._new_hash().name).lower()

    @property
    def notes(self) -> dict[str, Any]:
        """What was noted of every tensor, by this attempt or an earlier one."""
        return {k: v for done in self._done.values() for k, v in done["notes"].items()}

    def copy_beside(self, folder: Path | None, without: Sequence[str] = ()) -> None:
        """Take over configuration, tokenizer and whatever else lies beside weights; `without` are
        patterns of names that stay behind.
        """
        if folder is None or not folder.is_dir():
            return
        left = ("*.index.json", "bigpeft*", *without)
        for pattern in _COPIED:
            for path in folder.glob(pattern):
                if not any(fnmatch(path.name, name) for name in left):
                    shutil.copyfile(path, self.part / path.name)

    def finish(self) -> None:
        """Give the folder its name."""
        os.replace(self.part, self.out)
        for name in (_DONE, _LOCK):
            (self.out / name).unlink()

    def _alone(self) -> IO[str]:
        """OUT.part, and the lock in it, which the death of a process gives back too."""
        ours = (self.part / _LOCK).exists()
        if self.part.is_dir() and not ours and any(self.part.iterdir()):
            raise FileError(str(self.part), "is in the way, and not ours", "move it away")
        try:
            self.part.mkdir(parents=True, exist_ok=True)
            lock = (self.part / _LOCK).open("w")
        except OSError as error:
            raise FileError(
                str(self.part), f"cannot be made ({error.strerror})", "choose another folder"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise FileError(
                str(self.part), f"is locked by another process ({error.strerror})", "wait for it"
            ) from error
        return lock

    def _finished(self) -> dict[str, dict[str, Any]]:
        """The files that an earlier attempt of the same kind finished; others are dropped."""
        try:
            known = json.loads((self.part / _DONE).read_text())
            if known["identity"] == json.loads(json.dumps(self._identity)):
                done: dict[str, dict[str, Any]] = known["files"]
                return {name: said for name, said in done.items() if self._whole(name, said)}
        except (OSError, ValueError, KeyError, TypeError):
            pass
        for path in self.part.iterdir():
            if path.name != _LOCK:
                path.unlink()
        return {}

    def _whole(self, name: str, said: Mapping[str, Any]) -> bool:
        path = self.part / name
        if not path.is_file() or path.stat().st_size != said["bytes"]:
            return False
        with path.open("rb") as file:
            found: str = hashlib.file_digest(file, self._new_hash).hexdigest()
        return found == said["hash"]

    def _refuse_lack_of_room(self) -> None:
        wanted = self.nbytes * _ROOM - sum(done["bytes"] for done in self._done.values())
        free = shutil.disk_usage(self.part).free
        if wanted > free:
            raise FileError(
                str(self.out),
                f"needs {wanted / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
                "make room, or choose another place",
            )

    def _remember(self) -> None:
        temporary = self.part / f"{_DONE}.tmp"
        temporary.write_text(json.dumps({"identity": self._identity, "files": self._done}))
        os.replace(temporary, self.part / _DONE)


def _without_grad(
    make: Callable[[Bundle, int], Sequence[Tensor]],
) -> Callable[[tuple[Bundle, int]], Sequence[Tensor]]:
    """torch remembers per thread whether gradients are wanted."""

    def made(piece: tuple[Bundle, int]) -> Sequence[Tensor]:
        with torch.no_grad():
            return make(*piece)

    return made


def _size(piece: tuple[Bundle, int]) -> float:
    """What a piece counts against the tensors that may be in memory."""
    bundle, _ = piece
    return 1 / min(bundle.pieces, _PIECES_AT_ONCE)
