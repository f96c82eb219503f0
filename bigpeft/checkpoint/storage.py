"""torch DCP's safetensors storage, written as the slices lie in memory.

DCP's own writer copies every slice twice before the first byte is written; here one buffer's worth
is copied, hashed while the disk writes the one before. HuggingFaceStorageReader reads the files.
"""

import json
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint._hf_utils import (
    CUSTOM_METADATA_KEY,
    DCP_VERSION_KEY,
    HF_DCP_VERSION,
    SAVED_OFFSETS_KEY,
)
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from bigpeft.backbone.copies.writer import Entry, write_file


def shard_of(rank: int) -> str:
    """The file of this rank's slices."""
    return f"shard-{rank + 1:05d}-model-00001-of-00001.safetensors"


class Storage(HuggingFaceStorageWriter):
    """Writes the slices of one rank to `folder`; then `files` has their manifest's entry."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__(str(folder), save_distributed=True)
        self._file = folder / shard_of(rank)
        self.files: dict[str, Any] = {}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Stream the slices of `plan`. Raises FileError where the disk does not take them."""
        written: Future[list[WriteResult]] = Future()
        written.set_result([])
        if not plan.items:
            return written
        entries, offsets = [], {}
        for item in plan.items:
            assert item.tensor_data is not None
            name, chunk = item.index.fqn, item.tensor_data.chunk
            entries.append(Entry(name, item.tensor_data.properties.dtype, tuple(chunk.sizes)))
            offsets[name] = {SAVED_OFFSETS_KEY: list(chunk.offsets)}
        said = {CUSTOM_METADATA_KEY: json.dumps(offsets), DCP_VERSION_KEY: str(HF_DCP_VERSION)}
        slices = (planner.resolve_data(item) for item in plan.items)
        sha256 = write_file(self._file, entries, slices, metadata=said)  # type: ignore[arg-type]
        self.files = {
            self._file.name: {"bytes": self._file.stat().st_size, "sha256": sha256},
        }
        return written
