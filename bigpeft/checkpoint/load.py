"""Load: find the newest checkpoint that verifies, and put its state back on any world size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_sharded
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from bigpeft.checkpoint.engine import Engine
from bigpeft.checkpoint.keeping import best_of, by_step
from bigpeft.checkpoint.manifest import FIX, verify
from bigpeft.checkpoint.meta import Meta, read_meta
from bigpeft.checkpoint.rng import write_rng
from bigpeft.checkpoint.save import STATE, sharded, whole_size
from bigpeft.checkpoint.stages import training_state
from bigpeft.checkpoint.state import MOMENTS, name_of, whole_shape
from bigpeft.errors import CheckpointError
from bigpeft.placement import Trained

_PART = 64 << 20
"""Bytes of a rank that are read at a time."""


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


def find_together(root: Path, wanted: str, say: Callable[[str], None]) -> Path | None:
    """`find` by the first rank, for all: files are read once, and no rank sees another newest.

    Collective over all ranks, which raise what the first one raises.
    """
    found: list[Path | CheckpointError | None] = [None]
    if dist.get_rank() == 0:
        try:
            found = [find(root, wanted, say)]
        except CheckpointError as error:
            found = [error]
    dist.broadcast_object_list(found, 0)
    if isinstance(found[0], CheckpointError):
        raise found[0]
    return found[0]


def best_together(root: Path, figure: str) -> Path | None:
    """The checkpoint of `root` that is best by this figure, as the first rank sees it; None where
    none was evaluated. Collective over all ranks.
    """
    found: list[Path | None] = [None]
    if dist.get_rank() == 0:
        found = [best_of(by_step(root), figure)]
    dist.broadcast_object_list(found, 0)
    return found[0]


def load(
    path: Path, engine: Engine, parameters: Sequence[Trained], state: Mapping[str, Tensor]
) -> None:
    """Restore masters, moments, live copies, `state` and random states. Collective over all ranks.

    Each rank reads its slices, where it can to where they stay; otherwise one whole parameter at a
    time is put together from them. Raises CheckpointError where the files do not hold what
    meta.json says.
    """
    meta = read_meta(path)
    training = training_state(engine)
    training.create_moments(meta.updates)
    mesh = init_device_mesh(engine.device.type, (dist.get_world_size(),))
    for part in _parts(parameters):
        pieces = {
            name_of(item, moment): sharded(
                training.room(item.parameter, moment), whole_size(meta.parameters, item.name), mesh
            )
            for item, moment in part
        }
        _read(path, pieces)
        for item, moment in part:
            training.fill(item.parameter, moment, pieces.pop(name_of(item, moment)))
    if state:
        _restore_state(path / STATE, state)
    _restore_scale(engine, meta)
    rng = path / f"rng-{dist.get_rank():05d}.safetensors"
    if rng.is_file():
        write_rng(load_file(rng))


def _parts(parameters: Sequence[Trained]) -> Iterator[list[tuple[Trained, str | None]]]:
    """Masters (None) and moments, a few at a time: files stay mapped while they are read, and
    pieces that cannot be read in place are in memory twice.
    """
    part, nbytes = [], 0
    for item in parameters:
        for moment in (None, *MOMENTS):
            part.append((item, moment))
            nbytes += 4 * whole_shape(item.parameter).numel() // dist.get_world_size()
            if nbytes >= _PART:
                yield part
                part, nbytes = [], 0
    if part:
        yield part


def _read(path: Path, pieces: dict[str, DTensor]) -> None:
    try:
        load_sharded(pieces, storage_reader=HuggingFaceStorageReader(str(path)))
    except CheckpointException as error:
        _, (problem, _) = next(iter(error.failures.items()))
        raise CheckpointError(str(path), f"cannot be read ({problem})", FIX) from error


def _restore_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError for other tensors than the run has."""
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(str(path), f"cannot be read ({error})", FIX) from error
    if {k: t.shape for k, t in saved.items()} != {k: t.shape for k, t in state.items()}:
        raise CheckpointError(str(path), "holds other tensors than this method keeps", FIX)
    for name, tensor in saved.items():
        state[name].copy_(tensor)


def loss_scale(engine: Engine) -> dict[str, float] | None:
    """State of the fp16 loss scaler, None in other precisions."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    if not engine.fp16_enabled() or scaler is None:
        return None
    return {key: value for key, value in vars(scaler).items() if isinstance(value, int | float)}


def _restore_scale(engine: Engine, meta: Meta) -> None:
    if meta.loss_scale is not None and engine.fp16_enabled():
        vars(engine.optimizer.loss_scaler).update(meta.loss_scale)
