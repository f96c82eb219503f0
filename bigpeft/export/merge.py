"""The adapter into the weights: W → W', tensor by tensor, a folder that transformers opens.

Work goes into OUT.part; finished shards are listed there with their hashes, so that an interrupted
merge goes on. The folder gets its name when it is whole.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bigpeft.backbone import WeightSource, fill_slots
from bigpeft.backbone.slots import Slot
from bigpeft.checkpoint.manifest import sha256
from bigpeft.errors import FileError
from bigpeft.export.adapter import TENSORS
from bigpeft.export.changed import Base, changed, refuse_unmergeable
from bigpeft.export.run import FinishedRun
from bigpeft.export.writer import (
    Entry,
    refuse_existing,
    shard_name,
    shards,
    write_file,
    write_index,
)

_DONE = "merge.json"
_COPIED = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    folder: Path
    linears: int
    shards: int
    nbytes: int


def merge(
    run: FinishedRun,
    out: Path,
    base: Base = "dense",
    shard_bytes: int = 5_000_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Write the merged model to `out`; no more than one dense tensor and its change is in memory.

    `base` dense adds the change to the original weights, image to what their 4-bit codes decode to,
    which is what the run was trained on. `progress` gets (bytes written, bytes in all). Raises
    RecipeError for a method that no weight can hold, FileError for a place that cannot be written.
    """
    refuse_unmergeable(run)
    source = run.open_weights()
    slots = {slot.key: slot for slot in fill_slots(run.model, source.shapes())}
    entries = [Entry(key, source.dtype(key), shape) for key, shape in source.shapes().items()]
    cut = shards(entries, shard_bytes)
    total = sum(entry.nbytes for entry in entries)
    identity = _identity(run, base, shard_bytes)
    part, done = _open_part(out, identity)
    written = 0
    for number, shard in enumerate(cut):
        name = shard_name(number, len(cut))
        if name not in done:
            done[name] = write_file(part / name, shard, _tensors(run, source, shard, slots, base))
            _note(part, identity, done)
        written += sum(entry.nbytes for entry in shard)
        progress(written, total)
    write_index(part, cut)
    _copy_beside(run, part)
    _describe(part, run, base, done)
    os.replace(part, out)
    linears = sum(
        slot.linear is not None and slot.linear.name in run.seated for slot in slots.values()
    )
    return Merged(out, linears, len(cut), total)


def _tensors(
    run: FinishedRun,
    source: WeightSource,
    shard: Sequence[Entry],
    slots: dict[str, Slot],
    base: Base,
) -> Iterator[Tensor]:
    for entry in shard:
        tensor, slot = source.read(entry.name), slots.get(entry.name)
        if slot is not None:
            tensor = changed(run, slot, tensor, base)
        yield tensor.to(entry.dtype)


def _identity(run: FinishedRun, base: Base, shard_bytes: int) -> dict[str, Any]:
    """What an interrupted merge must share with the one that goes on."""
    return {
        "adapter": sha256(run.folder / "adapter" / TENSORS),
        "model": run.recipe.model.model_dump(mode="json"),
        "base": base,
        "shard_bytes": shard_bytes,
    }


def _open_part(out: Path, identity: dict[str, Any]) -> tuple[Path, dict[str, str]]:
    """OUT.part, and the shards in it that an earlier merge of the same kind finished."""
    refuse_existing(out)
    part = out.with_name(out.name + ".part")
    try:
        known = json.loads((part / _DONE).read_text())
        if known["identity"] == identity:
            return part, known["shards"]
    except (OSError, ValueError, KeyError):
        pass
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise FileError(
            str(part), f"cannot be made ({error.strerror})", "choose another folder"
        ) from error
    return part, {}


def _note(part: Path, identity: dict[str, Any], done: dict[str, str]) -> None:
    temporary = part / f"{_DONE}.tmp"
    temporary.write_text(json.dumps({"identity": identity, "shards": done}))
    os.replace(temporary, part / _DONE)


def _copy_beside(run: FinishedRun, part: Path) -> None:
    """Configuration, tokenizer and whatever else lies beside the weights."""
    run.model.config.save_pretrained(part)
    tokenizer = run.recipe.model.tokenizer
    for folder in (tokenizer and Path(tokenizer), run.base):
        if folder and folder.is_dir():
            for pattern in _COPIED:
                for path in folder.glob(pattern):
                    if not path.name.endswith(".index.json"):
                        shutil.copyfile(path, part / path.name)


def _describe(part: Path, run: FinishedRun, base: Base, done: dict[str, str]) -> None:
    said = {
        "method": run.recipe.method.model_dump(mode="json"),
        "base": {"name": run.recipe.model.name, "merged_into": base},
        "trained_on": run.recipe.model.weights,
        "sha256": done,
    }
    (part / "bigpeft.json").write_text(json.dumps(said, indent=2) + "\n")
    (part / _DONE).unlink()
