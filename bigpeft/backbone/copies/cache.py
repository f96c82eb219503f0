"""Packed copies of models that runs keep for the next run: `model.cache`."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.backbone.copies.once import made_once
from bigpeft.backbone.copies.quantize import files_of, quantize
from bigpeft.backbone.fingerprint import lasting
from bigpeft.backbone.sources import PackedFolder
from bigpeft.backbone.sources.source import WeightSource
from bigpeft.quant import Codec


class Cached(WeightSource):
    """Packed bytes from the copy; dense numbers of a packed weight from the base itself."""

    def __init__(self, copy: PackedFolder, base: WeightSource) -> None:
        super().__init__()
        self._copy, self._base = copy, base
        self._packed = frozenset(copy.manifest.packed)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the copy, which has what the model uses."""
        return self._copy.shapes()

    def dtype(self, name: str) -> torch.dtype:
        """That of the base."""
        return self._copy.dtype(name)

    def where(self, name: str) -> str:
        """In the base."""
        return self._base.where(name)

    def read(self, name: str) -> Tensor:
        """The base's numbers."""
        tensor = (self._base if name in self._packed else self._copy).read(name)
        self._note(name)
        return tensor

    def packed(self, name: str, codec: Codec) -> Tensor | None:
        """The copy's bytes."""
        packed = self._copy.packed(name, codec)
        self._note(name)
        return packed

    def _note(self, name: str) -> None:
        self.bytes_read = self._copy.bytes_read + self._base.bytes_read
        for source in (self._copy, self._base):
            if name in source.digests:
                self.digests[name] = source.digests[name]


def through_cache(
    model: PreTrainedModel,
    source: WeightSource,
    folder: Path,
    cache: Path,
    codec: Codec,
    say: Callable[[str], None],
) -> WeightSource:
    """`source`, the weights of `folder`, with a packed copy in `cache` before it.

    The copy is made where there is none for this model and codec. Raises FileError for a place that
    cannot be written, WeightError for damaged weights.
    """
    place = cache / f"{folder.resolve().name}-{codec.name}-{key_of(model, folder, codec)}"

    def make() -> None:
        say(f"packing the model once into {place}")
        quantize(model, source, folder, place)

    copy = made_once(place, make, say)
    return Cached(PackedFolder(copy), source)


def key_of(model: PreTrainedModel, folder: Path, codec: Codec) -> str:
    """Of the configuration, the codec, and size and time of the weight files."""
    parts = [
        lasting(model.config),
        str(folder.resolve()),
        files_of(folder),
        codec.identity,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
