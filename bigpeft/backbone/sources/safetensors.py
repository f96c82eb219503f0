"""Dense safetensors: model.safetensors, or the shards that an index lists."""

import json
from pathlib import Path

import torch
from torch import Tensor

from bigpeft.backbone.sources.files import Stored, dtype_of, header, read
from bigpeft.backbone.sources.source import DOWNLOAD, WeightSource, digest
from bigpeft.errors import WeightError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class SafetensorsFolder(WeightSource):
    """The tensors of a folder, one read each.

    Raises WeightError, naming the file, for a missing or truncated one, and for an index that lies.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._stored = stored_tensors(folder)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """From the files' headers."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def dtype(self, name: str) -> torch.dtype:
        """From the file's header."""
        return dtype_of(self._stored[name], name)

    def read(self, name: str) -> Tensor:
        """One tensor, hashed as it comes."""
        tensor = read(self._stored[name], name)
        self.bytes_read += tensor.nbytes
        self.digests[name] = digest(tensor)
        return tensor

    def where(self, name: str) -> str:
        """With its file."""
        return f"{name} of {self._stored[name].path}"


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Where every tensor of a folder lies, by the headers of its files."""
    found: dict[str, Stored] = {}
    for path, listed in _files(folder).items():
        held = header(path)
        for name in listed if listed is not None else held:
            if name not in held:
                raise WeightError(
                    str(path), f"does not hold {name}, which the index says", DOWNLOAD
                )
            found[name] = held[name]
    return found


def listed_files(index: Path) -> dict[Path, list[str]]:
    """File → the tensors that an index promises in it. Raises WeightError where one is missing."""
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        if not all(isinstance(file, str) for file in weight_map.values()):
            raise ValueError("its weight_map names what is no file")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightError(str(index), f"is not a weight index ({error})", DOWNLOAD) from error
    files: dict[Path, list[str]] = {}
    for name, file in weight_map.items():
        path = index.parent / file
        if Path(file).name != file:
            raise WeightError(str(index), f"points out of its folder ({file})", DOWNLOAD)
        files.setdefault(path, []).append(name)
    for path in files:
        if not path.is_file():
            raise WeightError(str(path), "is missing, but the index lists it", DOWNLOAD)
    return files


def _files(folder: Path) -> dict[Path, list[str] | None]:
    """File → the tensors that an index promises in it, None for all that it holds."""
    if (folder / INDEX).is_file():
        return dict(listed_files(folder / INDEX))
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: None}
    raise WeightError(
        str(folder),
        f"has neither {SINGLE} nor {INDEX}",
        "save the model with transformers' save_pretrained, which writes safetensors",
    )
