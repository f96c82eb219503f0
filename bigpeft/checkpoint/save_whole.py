"""Save by one process that has no engine: parameters come whole, one after another."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from bigpeft.backbone.copies.writer import Entry, unwritable, write_file
from bigpeft.checkpoint.keeping import UNFINISHED, folder_of
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.save import publish, vouch
from bigpeft.checkpoint.state import MOMENTS
from bigpeft.checkpoint.storage import shard_of

_SHARD = shard_of(0)


def save_whole(
    root: Path,
    read: Callable[[str, str | None], Tensor],
    state: Mapping[str, Tensor],
    meta: Meta,
) -> Path:
    """Write `root`/step-N as `save` does, whole or not at all.

    `read` gives the master (moment None) or a moment of one of `meta.parameters`; no more than one
    of them is in memory. Raises FileError for a place that cannot be written.
    """
    final = root / folder_of(meta.step)
    temporary = final.with_suffix(UNFINISHED)
    numbers = [(name, moment) for name in meta.parameters for moment in (None, *MOMENTS)]
    entries = [
        Entry(
            name if moment is None else f"{name}.{moment}",
            torch.float32,
            (torch.Size(meta.parameters[name]).numel(),),
        )
        for name, moment in numbers
    ]
    try:
        temporary.mkdir(parents=True)
        flat = (read(name, moment).reshape(-1) for name, moment in numbers)
        sha256 = write_file(temporary / _SHARD, entries, flat)
        shard = {"bytes": (temporary / _SHARD).stat().st_size, "sha256": sha256}
        vouch(temporary, {_SHARD: shard}, meta, state)
        publish(temporary)
    except OSError as error:
        raise unwritable(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final
