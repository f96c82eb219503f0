"""Save: every rank writes its slices and vouches for them; one rename. And what old ones end by.

Until the rename the folder is called step-N.tmp, so a crash leaves the last one untouched.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from bigpeft.checkpoint.agreement import agreed
from bigpeft.checkpoint.keeping import (
    META,
    UNFINISHED,
    Keep,
    delete,
    folder_of,
    half_written,
    superfluous,
)
from bigpeft.checkpoint.manifest import (
    Files,
    compare,
    described,
    read_manifest,
    sync_folder,
    write_manifest,
)
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.snapshot import Snapshot
from bigpeft.checkpoint.storage import Storage
from bigpeft.errors import CheckpointError

STATE = "state.safetensors"


def save(root: Path, snapshot: Snapshot, group: dist.ProcessGroup) -> Path:
    """Write `root`/step-N. Collective over `group`, of all ranks.

    Raises CheckpointError on all ranks where one of them cannot write; then nothing new is left.
    """
    temporary = (root / folder_of(snapshot.meta.step)).with_suffix(UNFINISHED)
    try:
        _write(temporary, snapshot, group)
    except CheckpointError:
        if dist.get_rank(group) == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    return temporary.with_suffix("")


def _write(temporary: Path, snapshot: Snapshot, group: dist.ProcessGroup) -> None:
    what, rank = str(temporary), dist.get_rank(group)
    with agreed(group, what):
        if rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
    mine: dict[str, Any] = {}
    with agreed(group, what):
        storage = Storage(temporary, rank)
        save_sharded(_sharded(snapshot, group), storage_writer=storage, process_group=group)
        rng = _write_tensors(temporary, f"rng-{rank:05d}.safetensors", snapshot.rng)
        mine = {**storage.files, rng: described(temporary, rng)}
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, mine, group)
    with agreed(group, what):
        if rank == 0:
            files = {name: entry for files in everyone for name, entry in files.items()}
            vouch(temporary, files, snapshot.meta, snapshot.state)
            publish(temporary)


def vouch(temporary: Path, files: Files, meta: Meta, state: Mapping[str, Tensor]) -> None:
    """Add to `files`, which others have written, what all ranks have in common; then the manifest.

    `state` is what changes in training beside what is trained.
    """
    (temporary / META).write_text(json.dumps(meta.as_json(), indent=1))
    common = [META]
    if state:
        common.append(_write_tensors(temporary, STATE, state))
    added = {name: described(temporary, name) for name in common}
    write_manifest(temporary, {**files, **added})


def publish(temporary: Path) -> None:
    """Give a folder with a manifest its final name."""
    final, root = temporary.with_suffix(""), temporary.parent
    delete(final)
    os.replace(temporary, final)
    sync_folder(root)
    (root / "latest").write_text(final.name + "\n")


def _write_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> str:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)
    return name


def drop_old(root: Path, new: Path, keep: Keep, group: dist.ProcessGroup) -> list[str]:
    """Delete what `keep` does not, once `new` has been read back, for which the ranks share the
    reading. Collective over `group`. Returns what there is to say of it.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    old = [superfluous(root, keep)] if rank == 0 else [None]
    dist.broadcast_object_list(old, 0, group)
    if old[0]:
        try:
            with agreed(group, str(new)):
                files = read_manifest(new)
                compare(new, {name: files[name] for name in sorted(files)[rank::size]})
        except CheckpointError as error:
            return [f"{error.why}, just after it was written; older checkpoints are kept"]
    if rank == 0:
        for folder in old[0] or []:
            delete(folder)
        for folder in half_written(root):
            shutil.rmtree(folder, ignore_errors=True)
    return []


def _sharded(snapshot: Snapshot, group: dist.ProcessGroup) -> dict[str, Any]:
    """Name and name.moment → a DTensor over the flat parameter."""
    mesh = DeviceMesh.from_group(group, "cpu")
    return {
        name: sharded(piece, whole_size(snapshot.meta.parameters, name), mesh)
        for name, piece in snapshot.slices.items()
    }


def whole_size(parameters: Mapping[str, list[int]], name: str) -> int:
    """Numbers of a whole parameter or moment, by the shapes of parameters."""
    return math.prod(parameters[name if name in parameters else name.rpartition(".")[0]])


def sharded(piece: Tensor, size: int, mesh: DeviceMesh) -> DTensor:
    """`size` numbers, of which `piece` is what torch.chunk gives this rank."""
    shape = torch.Size([size])
    return DTensor.from_local(piece, mesh, [Shard(0)], run_check=False, shape=shape, stride=(1,))
