"""The adapter into the weights: W → W', tensor by tensor, a folder that transformers opens."""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import xxhash
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from bigpeft.backbone import WeightSource, fill_slots
from bigpeft.backbone.copies.layouts import BitsAndBytes, Dense, Layout, Packed, say_quantised
from bigpeft.backbone.copies.streamed import StreamedFolder
from bigpeft.backbone.copies.writer import Bundle
from bigpeft.backbone.fingerprint import fingerprint
from bigpeft.backbone.slots import Slot, aliases
from bigpeft.backbone.sources.source import digest
from bigpeft.checkpoint.manifest import sha256
from bigpeft.data import load_tokenizer
from bigpeft.errors import RecipeError
from bigpeft.export.adapter import TENSORS
from bigpeft.export.by_rows import ByRows
from bigpeft.export.changed import Base, changed, refuse_unmergeable
from bigpeft.export.run import FinishedRun
from bigpeft.quant import CodecOptions, codecs, make_codec

_TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "*.model", "chat_template*",
)  # fmt: skip
Format = Literal["packed", "bitsandbytes"]


@dataclass(frozen=True)
class Merged:
    """What a merge did."""

    folder: Path
    linears: int
    shards: int
    nbytes: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """How the merged weights are kept: `weights` none as they are, else packed as `format` says."""

    weights: str = "none"
    block: int = 64
    nested: bool = True
    format: Format | None = None

    def layout(self) -> Layout:
        """Raises RecipeError for a format that there is not, or a block that it does not take."""
        if self.weights == "none":
            if self.format is not None:
                raise RecipeError(
                    "--format", "is of packed weights, --weights is none", "add --weights nf4"
                )
            return Dense()
        if self.weights not in codecs():
            known = ", ".join(codecs())
            raise RecipeError("--weights", f"{self.weights} is no format", f"write one of {known}")
        try:
            codec = make_codec(self.weights, CodecOptions(self.block, self.nested))
        except RecipeError as error:
            raise RecipeError(error.what.replace("model.", "--"), error.why, error.fix) from error
        return BitsAndBytes(codec) if self.format == "bitsandbytes" else Packed(codec)


def merge(
    run: FinishedRun,
    out: Path,
    base: Base = "dense",
    written: Written = Written(),
    shard_bytes: int = 5_000_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merged:
    """Write the merged model to `out`. Each core has one dense tensor and its change in memory, or
    a few rows of one where the method lets rows merge by themselves.

    `base` dense adds the change to the original weights, image to what their 4-bit codes decode to,
    which is what the run was trained on. `progress` gets (bytes written, bytes in all). Raises
    RecipeError for a method that no weight can hold, WeightError for another base than the run's,
    FileError for a place that cannot be written.
    """
    refuse_unmergeable(run)
    source, layout = run.open_weights(), written.layout()
    _refuse_missing_base(run, source, base)
    shapes = source.shapes()
    slots = {slot.key: slot for slot in fill_slots(run.model, shapes)}
    twice = aliases(run.model, list(slots.values()), shapes)
    whole = layout.whole and run.recipe.model.layers is None
    names = [key for key in shapes if key in slots or (whole and key not in twice)]
    few = [slots[key] for key in names if key in slots] if layout.whole and base == "dense" else []
    by_rows = ByRows(run, source, few)
    bundles = [
        replace(
            layout.bundle(slots.get(key), key, source.dtype(key), shapes[key]),
            pieces=by_rows.pieces(key),
        )
        for key in names
    ]
    hashes: dict[str, tuple[str, str]] = {}

    def make(bundle: Bundle, piece: int) -> list[Tensor]:
        slot = slots.get(bundle.name)
        if slot is not None and bundle.pieces > 1:
            return [by_rows.piece(slot, piece, source.dtype(bundle.name))]
        tensor = _merged(run, source, bundle.name, slot, base)
        tensors = layout.tensors(slot, tensor, bundle)
        if isinstance(layout, Packed):
            hashes[bundle.name] = digest(tensor), digest(*tensors)
        return tensors

    new_hash = hashlib.sha256 if isinstance(layout, Packed) else xxhash.xxh3_128
    identity = _identity(run, base, written)
    with by_rows, StreamedFolder(out, bundles, shard_bytes, identity, new_hash) as streamed:
        streamed.write(make, os.cpu_count() or 1, progress, hashes.get)
        _describe(streamed, run, base)
        _finish_layout(streamed, run, layout, slots, source)
        streamed.finish()
    linears = [slot for slot in slots.values() if slot.linear and slot.linear.name in run.seated]
    remarks = tuple(_remarks(layout, slots.values()))
    return Merged(out, len(linears), len(streamed.cut), streamed.nbytes, remarks)


def _remarks(layout: Layout, slots: Iterable[Slot]) -> Iterator[str]:
    """What users should know about the result."""
    if isinstance(layout, BitsAndBytes):
        odd = [slot.key for slot in slots if not layout.divides(slot)]
        if odd:
            yield (
                f"in_features of {odd[0]} and {len(odd) - 1} more are no multiple of the block: "
                "bitsandbytes on a CPU does not decode such weights rightly"
            )


def _merged(
    run: FinishedRun, source: WeightSource, name: str, slot: Slot | None, base: Base
) -> Tensor:
    """The whole tensor after the merge, in the dtype of the base."""
    if slot is None:
        return source.read(name)
    packed = None
    if base == "image" and slot.linear is not None:
        packed = source.packed(name, slot.linear.base.codec)
    tensor = source.read(name) if packed is None else packed
    return changed(run, slot, tensor, base, packed).to(source.dtype(name))


def _finish_layout(
    streamed: StreamedFolder,
    run: FinishedRun,
    layout: Layout,
    slots: Mapping[str, Slot],
    source: WeightSource,
) -> None:
    """What says how the weights are packed."""
    if isinstance(layout, Packed):
        merged = {name: whole for name, (whole, _) in streamed.notes.items()}
        stored = {name: packed for name, (_, packed) in streamed.notes.items()}
        now = fingerprint(run.model.config, slots.values(), source.dtype, merged)
        layout.manifest(slots, now, stored, streamed.files).write(streamed.part)
    if isinstance(layout, BitsAndBytes):
        dtype = source.dtype(next(key for key, slot in slots.items() if slot.linear))
        say_quantised(streamed.part, layout.config(dtype, _dense_linears(run)))


def _refuse_missing_base(run: FinishedRun, source: WeightSource, base: Base) -> None:
    """Dense weights are wanted and the run has seen none, or has none."""
    if base == "image":
        return
    name = run.recipe.model.name
    if not source.exact:
        other = ", or --model FOLDER with the dense model" if source.hashes_dense else ""
        raise RecipeError(
            "--base dense",
            f"{name} is packed, the dense weights that it was made from are not in it",
            f"write --base image{other}",
        )
    edits = any(getattr(method, "edits_base", False) for method in run.seated.values())
    if edits and run.started_from == "image":
        raise RecipeError(
            "--base dense",
            f"{run.recipe.method.name} took its start out of the image of the weights, not of the "
            "dense ones",
            "write --base image without --model",
        )


def _dense_linears(run: FinishedRun) -> list[str]:
    """Linears of the model that are never packed."""
    return [n for n, m in run.model.named_modules() if type(m) in (nn.Linear, Conv1D)]


def _identity(run: FinishedRun, base: Base, written: Written) -> dict[str, Any]:
    """What an interrupted merge must share with the one that goes on."""
    return {
        "adapter": sha256(run.folder / "adapter" / TENSORS),
        "model": run.recipe.model.model_dump(mode="json"),
        "from": str(run.base),
        "base": base,
        "written": [written.weights, written.block, written.nested, written.format],
        "method": run.recipe.method.model_dump(mode="json"),
        "mpc": run.recipe.mpc and run.recipe.mpc.model_dump(mode="json"),
    }


def _describe(streamed: StreamedFolder, run: FinishedRun, base: Base) -> None:
    """Configuration, tokenizer, and what was merged."""
    model = run.recipe.model
    streamed.copy_beside(run.base, without=_TOKENIZER if model.tokenizer else ())
    if model.tokenizer:
        tokenizer = load_tokenizer(model.tokenizer, model.revision, model.trust_remote_code)
        tokenizer.save_pretrained(streamed.part)
    config = copy.deepcopy(run.model.config)
    config.use_cache, config.architectures = True, [type(run.model).__name__]
    config.save_pretrained(streamed.part)
    said = {
        "method": run.recipe.method.model_dump(mode="json"),
        "base": {"name": run.recipe.model.name, "merged_into": base},
        "trained_on": run.recipe.model.weights,
        "hash": streamed.hash_name,
        "files": {name: found for name, (_, found) in streamed.files.items()},
    }
    (streamed.part / "bigpeft.json").write_text(json.dumps(said, indent=2) + "\n")
