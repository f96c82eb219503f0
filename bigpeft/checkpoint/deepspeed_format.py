"""DeepSpeed's own ZeRO-3 checkpoints, read without an engine.

Each rank has a file with flat fp32 masters and Adam's two moments of each. A parameter is cut into
as many slices as there are ranks, all of one size, the end padded; in a flat tensor the slices of
its parameters lie one after another, in the order of `param_shapes` in rank 0's other file.

The files are pickles. They are first read as torch reads weights alone, with nothing allowed but
tensors, plain values and three classes of DeepSpeed; only where that fails in full.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from torch import Tensor

from bigpeft.checkpoint.state import MOMENTS
from bigpeft.errors import CheckpointError

_OPTIMIZER = re.compile(r"(.*)zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_MODEL, _UNCUT_MODEL = "zero_pp_rank_0_mp_rank_00_model_states.pt", "mp_rank_00_model_states.pt"
_PLAIN = [LossScaler, DynamicLossScaler, ZeroStageEnum]
_COPY = "copy the whole folder again, or use another checkpoint"
_ONLY, _SAVE = "only stage 3 is converted", "save it from a run with ZeRO-3"


@dataclass(frozen=True)
class _Rank:
    """What one rank keeps: flat tensors by group, under None the masters."""

    tensors: dict[str | None, list[Tensor]]
    updates: int


@dataclass(frozen=True)
class DeepSpeedCheckpoint:
    """`step` counts optimizer steps, `updates` those that Adam has made; `shapes` and `buffers` go
    by the names in the model that was trained.
    """

    folder: Path
    step: int
    updates: int
    bf16: bool
    shapes: dict[str, torch.Size]
    buffers: dict[str, Tensor]
    _places: dict[str, tuple[int, int, int]]
    _ranks: list[_Rank]

    @property
    def world_size(self) -> int:
        """Ranks that saved it."""
        return len(self._ranks)

    def read(self, name: str, moment: str | None) -> Tensor:
        """The whole master (moment None) or moment, fp32, joined from the slices of all ranks."""
        group, start, size = self._places[name]
        slices = [rank.tensors[moment][group][start : start + size] for rank in self._ranks]
        shape = self.shapes[name]
        return torch.cat(slices)[: shape.numel()].view(shape).float()


def open_deepspeed(folder: Path, say: Callable[[str], None]) -> DeepSpeedCheckpoint:
    """The checkpoint in `folder`, a save_dir or the folder of one tag.

    This unpickles. The ranks' numbers stay mapped to their files. Raises CheckpointError, naming
    the file, for what is missing, damaged, or no ZeRO-3 checkpoint of one tensor-parallel rank.
    """
    tag = _tag_folder(folder)
    prefix = _refuse_another_kind(tag)
    model = _load(tag / _MODEL, say)
    path = _rank_file(tag, prefix, 0)
    try:
        groups = [dict(shapes) for shapes in model["param_shapes"]]
        buffers = {name: model["module"][name] for name in model["buffer_names"]}
        step = int(model["global_steps"])
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(tag / _MODEL, error) from error
    count = _partition_count(path, _load(path, say))
    places, sizes = _places(groups, count)
    known = {_rank_file(tag, prefix, rank) for rank in range(count)}
    for other in sorted(set(tag.glob("*_optim_states.pt")) - known):
        raise CheckpointError(
            str(other),
            f"is of another save than {path.name}, which {count} ranks wrote",
            "delete what an earlier save of more ranks has left in the folder",
        )
    ranks = []
    for rank in range(count):
        path = _rank_file(tag, prefix, rank)
        ranks.append(_rank(path, _load(path, say), count, sizes))
    return DeepSpeedCheckpoint(
        folder=tag,
        step=step,
        updates=max(rank.updates for rank in ranks),
        bf16=prefix == "bf16_",
        shapes={name: torch.Size(shape) for group in groups for name, shape in group.items()},
        buffers=buffers,
        _places=places,
        _ranks=ranks,
    )


def _tag_folder(folder: Path) -> Path:
    latest = folder / "latest"
    tag = folder / latest.read_text().strip() if latest.is_file() else folder
    if not tag.is_dir():
        by = f" that {latest} names" if latest.is_file() else ""
        raise CheckpointError(
            str(tag), f"is no folder{by}", "name what engine.save_checkpoint has written"
        )
    return tag


def _refuse_another_kind(tag: Path) -> str:
    """By the files' names alone; returns what the ranks' files begin with."""
    found = [m for p in sorted(tag.glob("*.pt")) if (m := _OPTIMIZER.fullmatch(p.name))]
    for match in found:
        if int(match[3]):
            raise CheckpointError(
                str(tag / match[0]),
                "is of another tensor-parallel rank; only checkpoints of one are converted",
                "save it from a run without tensor parallelism",
            )
    if not (tag / _MODEL).is_file():
        if (tag / _UNCUT_MODEL).is_file():
            raise CheckpointError(
                str(tag / _UNCUT_MODEL),
                f"is of a ZeRO stage below 3, {_ONLY}",
                _SAVE,
            )
        raise CheckpointError(str(tag / _MODEL), "is missing", _COPY)
    if not found:
        raise CheckpointError(str(_rank_file(tag, "", 0)), "is missing", _COPY)
    return found[0][1]


def _rank_file(tag: Path, prefix: str, rank: int) -> Path:
    return tag / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def _load(path: Path, say: Callable[[str], None]) -> Any:
    """What torch.save has written, mapped where the file allows it."""
    try:
        whole = zipfile.is_zipfile(path)
        if whole:
            with zipfile.ZipFile(path) as file:
                if damaged := file.testzip():
                    raise ValueError(f"the checksum of {damaged} is wrong")
        options: dict[str, Any] = {"map_location": "cpu", "mmap": whole}
        try:
            with torch.serialization.safe_globals(_PLAIN):
                return torch.load(path, weights_only=True, **options)
        except pickle.UnpicklingError:
            content = torch.load(path, weights_only=False, **options)
            say(f"{path.name} holds more than tensors and plain values: it was unpickled in full")
            return content
    except FileNotFoundError as error:
        raise CheckpointError(str(path), "is missing", _COPY) from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(str(path), f"is damaged or no file of torch ({reason})", _COPY) from (
            error
        )


def _partition_count(path: Path, content: Any) -> int:
    """Into how many slices parameters are cut."""
    try:
        zero = content["optimizer_state_dict"]
        stage = int(zero["zero_stage"])
        if stage == 3:
            return int(zero["partition_count"])
    except (KeyError, TypeError, ValueError) as error:
        raise _foreign(path, error) from error
    raise CheckpointError(str(path), f"is of ZeRO stage {stage}, {_ONLY}", _SAVE)


def _places(
    groups: Sequence[Mapping[str, torch.Size]], count: int
) -> tuple[dict[str, tuple[int, int, int]], list[int]]:
    """Group, start and size of each parameter's slices, and how long each flat tensor is."""
    places: dict[str, tuple[int, int, int]] = {}
    sizes = []
    for number, shapes in enumerate(groups):
        start = 0
        for name, shape in shapes.items():
            size = -(-torch.Size(shape).numel() // count)
            places[name] = (number, start, size)
            start += size
        sizes.append(start)
    return places, sizes


def _rank(path: Path, content: Any, count: int, sizes: list[int]) -> _Rank:
    """Masters and moments of one rank, checked to be what `sizes` says."""
    if _partition_count(path, content) != count:
        raise CheckpointError(str(path), f"was not written by {count} ranks as the others", _COPY)
    try:
        zero = content["optimizer_state_dict"]
        states = zero["optimizer_state_dict"]["state"]
        tensors: dict[str | None, list[Tensor]] = {None: list(zero["fp32_flat_groups"])}
        for moment in MOMENTS:
            tensors[moment] = [states[group][moment] for group in range(len(sizes))]
        updates = max(int(states[group]["step"]) for group in range(len(sizes)))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            str(path),
            f"holds no moments of Adam ({error!r})",
            "save it after a step of Adam or AdamW, its state not offloaded to NVMe",
        ) from error
    for flat in tensors.values():
        if [tensor.numel() for tensor in flat] != sizes:
            raise CheckpointError(
                str(path),
                f"holds {[t.numel() for t in flat]} numbers where {_MODEL} has room for {sizes}",
                "take all files from one save, whose state is not offloaded to NVMe",
            )
    return _Rank(
        {key: [t.detach().reshape(-1) for t in flat] for key, flat in tensors.items()}, updates
    )


def _foreign(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(str(path), f"is no file of a ZeRO checkpoint ({error!r})", _COPY)
