"""Load: find the newest checkpoint that verifies, and put its state back on any world size."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.device_mesh import init_device_mesh

from bigpeft.checkpoint.engine import Engine
from bigpeft.checkpoint.keeping import META, by_step
from bigpeft.checkpoint.manifest import verify
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.rng import write_rng
from bigpeft.checkpoint.save import STATE, slice_of
from bigpeft.checkpoint.state import MOMENTS, training_state
from bigpeft.errors import CheckpointError
from bigpeft.placement import Trained


def find(root: Path, wanted: str, say: Callable[[str], None]) -> Path | None:
    """The checkpoint to resume: `auto` is the newest of `root` that verifies, else the path given.

    Raises CheckpointError for a path that does not verify, or when none does; `auto` says why it
    passes one over.
    """
    if wanted == "never":
        return None
    if wanted != "auto":
        verify(Path(wanted))
        return Path(wanted)
    saved = by_step(root)
    for path in reversed(saved):
        try:
            verify(path)
        except CheckpointError as error:
            say(f"passing over {path.name}: {error.what} {error.why}")
        else:
            return path
    if saved:
        raise CheckpointError(
            str(root),
            f"holds {len(saved)} checkpoints, none of them whole",
            "bring one back from a copy, or start another run.folder",
        )
    return None


def read_meta(path: Path) -> Meta:
    """meta.json of a verified checkpoint."""
    return Meta(**json.loads((path / META).read_text()))


def load(
    path: Path, engine: Engine, parameters: Sequence[Trained], state: Mapping[str, Tensor]
) -> None:
    """Restore masters, moments, live copies, `state` and random states. Collective over all ranks.

    Each rank reads its slices; one whole parameter at a time is put together from them.
    """
    meta = read_meta(path)
    mesh = init_device_mesh(engine.device.type, (dist.get_world_size(),))
    empty = {item.name: torch.zeros(_shape(meta, item)) for item in parameters}
    slices = {
        key: slice_of(empty[item.name].to(engine.device), mesh)
        for item in parameters
        for key in (item.name, *(f"{item.name}.{moment}" for moment in MOMENTS))
    }
    load_sharded(slices, storage_reader=HuggingFaceStorageReader(str(path)))
    training = training_state(engine)
    training.create_moments(meta.updates)
    for item in parameters:
        for moment in (None, *MOMENTS):
            key = item.name if moment is None else f"{item.name}.{moment}"
            whole = slices.pop(key).full_tensor().view(_shape(meta, item))
            training.write(item.parameter, moment, whole)
    if state:
        for name, saved in load_file(path / STATE).items():
            state[name].copy_(saved)
    _restore_scale(engine, meta)
    rng = path / f"rng-{dist.get_rank():05d}.safetensors"
    if rng.is_file():
        write_rng(load_file(rng))


def _shape(meta: Meta, item: Trained) -> list[int]:
    return meta.parameters[item.name]


def loss_scale(engine: Engine) -> dict[str, float] | None:
    """State of the fp16 loss scaler, None in other precisions."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if not engine.fp16_enabled() or scaler is None:
        return None
    return {key: value for key, value in vars(scaler).items() if isinstance(value, int | float)}


def _restore_scale(engine: Engine, meta: Meta) -> None:
    if meta.loss_scale is not None and engine.fp16_enabled():
        vars(engine.optimizer.loss_scaler).update(meta.loss_scale)
