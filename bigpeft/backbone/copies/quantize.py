"""A model's packed checkpoint: made once, so that later loads read 4-bit bytes alone."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.backbone.copies.layouts import Packed, say_quantised
from bigpeft.backbone.copies.streamed import StreamedFolder
from bigpeft.backbone.copies.writer import Bundle
from bigpeft.backbone.fingerprint import fingerprint
from bigpeft.backbone.slots import Slot, fill_slots
from bigpeft.backbone.sources.packed import PackedManifest
from bigpeft.backbone.sources.source import WeightSource, digest
from bigpeft.errors import WeightError

SHARD_BYTES = 2_000_000_000
CPU = torch.device("cpu")


def quantize(
    model: PreTrainedModel,
    source: WeightSource,
    folder: Path,
    out: Path,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PackedManifest:
    """Pack every linear of a skeleton from `source`, the weights of `folder`, into `out`.

    All cores are used, each with one dense tensor in memory. Raises WeightError for weights that
    are damaged or not finite, FileError for a place that cannot be written.
    """
    slots = {slot.key: slot for slot in fill_slots(model, source.shapes())}
    layout = Packed(next(slot.linear.base.codec for slot in slots.values() if slot.linear))
    bundles = [
        layout.bundle(slots[key], key, source.dtype(key), shape)
        for key, shape in source.shapes().items()
        if key in slots
    ]
    identity = {"files": files_of(folder), "codec": layout.codec.identity}
    stored: dict[str, str] = {}

    def make(bundle: Bundle, piece: int) -> list[Tensor]:
        tensor = packed_or_dense(slots[bundle.name], source)
        stored[bundle.name] = digest(tensor)
        return [tensor]

    def note(name: str) -> list[str]:
        return [source.digests[name], stored[name]]

    with StreamedFolder(out, bundles, shard_bytes, identity) as streamed:
        streamed.write(make, os.cpu_count() or 1, progress, note)
        streamed.copy_beside(folder)
        say_quantised(streamed.part, None)
        read = {name: first for name, (first, _) in streamed.notes.items()}
        kept = {name: second for name, (_, second) in streamed.notes.items()}
        base = fingerprint(model.config, slots.values(), source.dtype, read)
        manifest = layout.manifest(slots, base, kept, streamed.files)
        manifest.write(streamed.part)
        streamed.finish()
    return manifest


def packed_or_dense(slot: Slot, source: WeightSource, device: torch.device = CPU) -> Tensor:
    """What a packed checkpoint stores for the slot: packed bytes of a linear's W, else the tensor.

    Packed on `device`. Raises WeightError for numbers that are not finite.
    """
    if slot.linear is None:
        return finite(source, slot.key, device)
    codec = slot.linear.base.codec
    packed = source.packed(slot.key, codec)
    if packed is not None:
        return packed.to(device, copy=True)
    weight = finite(source, slot.key, device)
    return codec.encode(slot.linear.turned(weight))


def finite(source: WeightSource, name: str, device: torch.device) -> Tensor:
    """The tensor on `device`, or WeightError. Without a mask as large as it: NaN and infinity both
    reach the extremes.
    """
    tensor = source.read(name).to(device)
    if tensor.is_floating_point() and tensor.numel():
        low, high = tensor.aminmax()
        if not bool(low.isfinite() & high.isfinite()):
            raise WeightError(
                source.where(name), "holds NaN or infinite numbers", "use other weights"
            )
    return tensor


def files_of(folder: Path) -> dict[str, list[Any]]:
    """Size and time of every weight file and of config.json: what changes when the model does."""
    kinds = ("*.safetensors", "*.bin", "config.json")
    paths = sorted(path for kind in kinds for path in folder.glob(kind))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
