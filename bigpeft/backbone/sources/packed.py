"""Our own packed checkpoint: safetensors of packed weights, and a manifest that says what it is.

`bigpeft_packed.json` has the format's version, the codec, the fingerprint of the dense base, the
sha256 of every file and a hash of every tensor. A linear's weight is stored as its packed bytes
under the name of the dense tensor; everything else as it was.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigpeft.backbone.fingerprint import Fingerprint
from bigpeft.backbone.sources.files import NAMED, read
from bigpeft.backbone.sources.safetensors import stored_tensors
from bigpeft.backbone.sources.source import WeightSource, digest
from bigpeft.errors import WeightError
from bigpeft.quant import Codec, CodecOptions, codecs, make_codec

MANIFEST = "bigpeft_packed.json"
VERSION = 1
_AGAIN = "delete the folder and make it again: bigpeft quantize, or model.cache by itself"


@dataclass(frozen=True)
class PackedManifest:
    """`transposed`: packed weights that the base keeps as (in_features, out_features).

    `stored`: tensor → hash of its bytes here. `files`: file → [bytes, sha256].
    """

    codec: str
    codec_version: int
    block: int
    nested: bool
    packed: tuple[str, ...]
    transposed: tuple[str, ...]
    stored: Mapping[str, str]
    files: Mapping[str, tuple[int, str]]
    source: Fingerprint

    def write(self, folder: Path) -> None:
        """Write the manifest file."""
        content = {"version": VERSION, **asdict(self), "source": self.source.as_json()}
        (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")

    def make_codec(self) -> Codec:
        """The codec of the packed weights."""
        return make_codec(self.codec, CodecOptions(self.block, self.nested))


def read_manifest(folder: Path) -> PackedManifest:
    """Raises WeightError for a manifest that is damaged, or from a later bigpeft."""
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        version = content.pop("version")
        if version > VERSION:
            raise _later(path, f"format version {version}", VERSION)
        source = Fingerprint.from_json(content.pop("source"))
        outside = [file for file in content["files"] if Path(file).name != file]
        unknown = {kind for kind, _, _ in source.tensors.values()} - NAMED.keys()
        if outside or unknown:
            raise ValueError(f"it names {min([*outside, *unknown])}")
        packed, transposed = tuple(content.pop("packed")), tuple(content.pop("transposed"))
        manifest = PackedManifest(source=source, packed=packed, transposed=transposed, **content)
        known = codecs().get(manifest.codec)
        if known is None or manifest.codec_version > known.version:
            said = f"{manifest.codec} version {manifest.codec_version}"
            raise _later(path, said, known.version if known else "no such format")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightError(str(path), f"is no manifest ({error})", _AGAIN) from error
    return manifest


def verify(folder: Path) -> None:
    """Raise WeightError, naming the first file that is missing or damaged."""
    for file, (_, sha) in PackedFolder(folder).manifest.files.items():
        with (folder / file).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != sha:
                raise WeightError(
                    str(folder / file), "is damaged: its sha256 is not the manifest's", _AGAIN
                )


def _later(path: Path, found: str, known: object) -> WeightError:
    return WeightError(
        str(path),
        f"is of {found}, this bigpeft reads {known}",
        "use the version of bigpeft that wrote it, or make it again with bigpeft quantize",
    )


class PackedFolder(WeightSource):
    """A folder that `bigpeft quantize` wrote. Every tensor is compared with its hash as it is read.

    Raises WeightError for damaged files, and for another codec than the recipe's.
    """

    exact = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.manifest = read_manifest(folder)
        self._folder = folder
        for file, (nbytes, _) in self.manifest.files.items():
            path = folder / file
            if not path.is_file():
                raise WeightError(str(path), "is missing, but the manifest lists it", _AGAIN)
            if path.stat().st_size != nbytes:
                raise WeightError(
                    str(path), f"has {path.stat().st_size} bytes, {nbytes} were written", _AGAIN
                )
        self._stored = stored_tensors(folder)
        unknown = self._stored.keys() ^ self.manifest.source.tensors.keys()
        if unknown:
            raise WeightError(str(folder), f"and its manifest disagree on {min(unknown)}", _AGAIN)
        self._packed = frozenset(self.manifest.packed)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The dense shapes of the base."""
        return {name: shape for name, (_, shape, _) in self.manifest.source.tensors.items()}

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that the base has."""
        return NAMED[self.manifest.source.tensors[name][0]]

    def read(self, name: str) -> Tensor:
        """A dense tensor; of a packed weight what its codes decode to, laid out as in the base."""
        tensor = self._checked(name)
        if name not in self._packed:
            return tensor
        shape = self.shapes()[name]
        rows, columns = shape[::-1] if name in self.manifest.transposed else shape
        weight = self.manifest.make_codec().decode(tensor, (rows, columns), self.dtype(name))
        return weight.t().contiguous() if name in self.manifest.transposed else weight

    def packed(self, name: str, codec: Codec) -> Tensor | None:
        """The bytes as they are. None for what was left dense."""
        if name not in self._packed:
            return None
        self.check_codec(codec)
        return self._checked(name)

    def packed_as(self) -> dict[str, Codec]:
        """By the manifest."""
        return {str(self._folder): self.manifest.make_codec()}

    def _checked(self, name: str) -> Tensor:
        stored = self._stored[name]
        tensor = read(stored, name)
        self.bytes_read += tensor.nbytes
        if digest(tensor) != self.manifest.stored[name]:
            raise WeightError(
                str(stored.path), f"is damaged: the hash of {name} is not the manifest's", _AGAIN
            )
        self.digests[name] = self.manifest.source.tensors[name][2]
        return tensor
