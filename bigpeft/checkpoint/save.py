"""Save: every rank writes its slices, the first rank vouches for all files, then one rename."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from bigpeft.checkpoint.engine import Engine
from bigpeft.checkpoint.keeping import META, Keep, drop_old, folder_of
from bigpeft.checkpoint.manifest import sync_folder, verify, write_manifest
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.rng import read_rng
from bigpeft.checkpoint.state import MOMENTS, training_state
from bigpeft.errors import CheckpointError
from bigpeft.placement import Trained

STATE = "state.safetensors"


def save(
    root: Path,
    engine: Engine,
    parameters: Sequence[Trained],
    state: Mapping[str, Tensor],
    meta: Meta,
    keep: Keep,
    say: Callable[[str], None],
) -> Path:
    """Write `root`/step-N and drop what `keep` does not. Collective over all ranks.

    `state` are tensors that change in training beside the trained ones, equal on all ranks. Nothing
    is dropped before the new checkpoint has been read back and verified; `say` tells where it is
    damaged.

    Until the rename the folder is called step-N.tmp, so a crash leaves the last one untouched.
    """
    final = root / folder_of(meta.step)
    temporary = final.with_suffix(".tmp")
    first = dist.get_rank() == 0
    if first:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    save_sharded(
        sharded_state(engine, parameters),
        storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True),
    )
    save_file(read_rng(engine.device), temporary / f"rng-{dist.get_rank():05d}.safetensors")
    dist.barrier()
    if first:
        if state:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
            save_file(tensors, temporary / STATE)
        (temporary / META).write_text(json.dumps(meta.as_json(), indent=1))
        publish(temporary, final)
        _drop_old(root, final, keep, say)
    dist.barrier()
    return final


def publish(temporary: Path, final: Path) -> None:
    """Vouch for every file of `temporary` and give the folder its final name."""
    _sync_files(temporary)
    write_manifest(temporary)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    sync_folder(final.parent)
    (final.parent / "latest").write_text(final.name + "\n")


def sharded_state(engine: Engine, parameters: Sequence[Trained]) -> dict[str, Any]:
    """Name and name.moment → this rank's slice as a DTensor over the flat parameter."""
    mesh = init_device_mesh(engine.device.type, (dist.get_world_size(),))
    state = training_state(engine)
    tensors: dict[str, Any] = {}
    for item in parameters:
        for moment in (None, *MOMENTS):
            name = item.name if moment is None else f"{item.name}.{moment}"
            tensors[name] = slice_of(state.read(item.parameter, moment), mesh)
    return tensors


def slice_of(whole: Tensor, mesh: DeviceMesh) -> DTensor:
    """The piece of a flattened tensor that this rank keeps, cut as torch.chunk cuts."""
    flat = whole.detach().reshape(-1).float()
    size = -(-flat.numel() // mesh.size())
    mine = flat[size * mesh.get_rank() : size * (mesh.get_rank() + 1)].clone()
    return DTensor.from_local(
        mine, mesh, [Shard(0)], run_check=False, shape=flat.shape, stride=(1,)
    )


def _drop_old(root: Path, new: Path, keep: Keep, say: Callable[[str], None]) -> None:
    try:
        verify(new)
    except CheckpointError as error:
        say(f"{error.what} {error.why}, just after it was written; older checkpoints are kept")
    else:
        drop_old(root, keep)


def _sync_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
