"""Safetensors written tensor by tensor: no more of a model than one tensor is in memory."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigpeft.backbone.copies.direct import DirectFile
from bigpeft.backbone.sources.files import DTYPES
from bigpeft.errors import FileError

INDEX = "model.safetensors.index.json"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor that will be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.dtype.itemsize * int(torch.Size(self.shape).numel())


def refuse_existing(out: Path) -> None:
    """Raise FileError: nothing that is there is written over."""
    if out.exists():
        raise FileError(str(out), "is there already", "choose another folder, or delete it")


def unwritable(out: Path, error: OSError) -> FileError:
    """What its user is told of a place where writing failed."""
    return FileError(str(out), f"cannot be written ({error})", "make room, or choose another place")


@dataclass(frozen=True)
class Bundle:
    """Tensors that are made together and lie side by side in a file: those of one weight.

    A bundle of one tensor may be made in `pieces` along its first dimension.
    """

    name: str
    entries: tuple[Entry, ...]
    pieces: int = 1

    @property
    def nbytes(self) -> int:
        """Bytes of their numbers."""
        return sum(entry.nbytes for entry in self.entries)


def shards(bundles: Sequence[Bundle], most: int) -> list[list[Bundle]]:
    """Bundles in order, cut into files of at most `most` bytes each; a larger one is alone."""
    cut: list[list[Bundle]] = []
    size = most + 1
    for bundle in bundles:
        if size + bundle.nbytes > most:
            cut.append([])
            size = 0
        cut[-1].append(bundle)
        size += bundle.nbytes
    return cut


def entries_of(bundles: Iterable[Bundle]) -> list[Entry]:
    """All tensors, in order."""
    return [entry for bundle in bundles for entry in bundle.entries]


def shard_name(number: int, total: int) -> str:
    """The file name that transformers expects of shard `number` (from 0)."""
    return (
        "model.safetensors" if total == 1 else f"model-{number + 1:05d}-of-{total:05d}.safetensors"
    )


def write_index(folder: Path, cut: Sequence[Sequence[Bundle]]) -> None:
    """Which tensor is in which file, where there are several."""
    if len(cut) == 1:
        return
    files = {
        e.name: shard_name(n, len(cut)) for n, part in enumerate(cut) for e in entries_of(part)
    }
    total = sum(bundle.nbytes for part in cut for bundle in part)
    content = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / INDEX).write_text(json.dumps(content, indent=2) + "\n")


def write_file(
    path: Path,
    entries: Sequence[Entry],
    tensors: Iterable[Tensor],
    new_hash: Callable[[], Any] = hashlib.sha256,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write `tensors`, which come in the order of `entries`, each whole or in pieces along its
    first dimension, and `metadata`. Returns the hash of the file, sha256 unless `new_hash` makes
    another.

    The file appears under its name when it is whole and on disk. Raises FileError where the disk
    is full or the folder cannot be written; then nothing is left.
    """
    temporary = path.with_name(path.name + ".part")
    digest = new_hash()
    try:
        with DirectFile(temporary) as file:
            for piece in _pieces(entries, tensors, metadata or {}):
                file.write(piece)
                digest.update(piece)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FileError(
            str(path), f"cannot be written ({error.strerror})", "make room, or choose another place"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return str(digest.hexdigest())


def _pieces(
    entries: Sequence[Entry], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> Iterable[Any]:
    yield _header(entries, metadata)
    coming = iter(tensors)
    for entry in entries:
        done = 0
        while done < entry.nbytes or not entry.nbytes:
            tensor = next(coming)
            done += tensor.nbytes
            alike = (tensor.dtype, tuple(tensor.shape[1:])) == (entry.dtype, entry.shape[1:])
            if not alike or done > entry.nbytes:
                raise TypeError(f"{entry} was announced, {tensor.dtype} {tensor.shape} comes")
            flat = tensor.detach().cpu().contiguous().flatten()
            yield flat.view(torch.uint8).numpy().data
            if not entry.nbytes:
                break


def _header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    start = 0
    for entry in entries:
        offsets = [start, start + entry.nbytes]
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": offsets,
        }
        start = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
