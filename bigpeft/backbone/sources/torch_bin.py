"""pytorch_model.bin, read by torch's weights-only loader: no code of the file is run."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from bigpeft.backbone.sources.safetensors import listed_files
from bigpeft.backbone.sources.source import DOWNLOAD, WeightSource, digest
from bigpeft.errors import WeightError

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


class TorchBinFolder(WeightSource):
    """One file, or the shards that an index lists. A file is mapped anew for each tensor, so no
    more than that tensor stays in memory.

    Raises WeightError for a file that is damaged, holds more than tensors, or was written in the
    format before torch 1.6, which cannot be mapped.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        index = folder / INDEX
        files = list(listed_files(index)) if index.is_file() else [folder / SINGLE]
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        for path in files:
            for name, tensor in _mapped(path).items():
                self._file_of[name] = path
                self._shapes[name], self._dtypes[name] = tuple(tensor.shape), tensor.dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """From the files' records."""
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        """From the file's record."""
        return self._dtypes[name]

    def read(self, name: str) -> Tensor:
        """A copy of the mapped numbers, hashed."""
        tensor = _mapped(self._file_of[name])[name].clone(memory_format=torch.contiguous_format)
        self.bytes_read += tensor.nbytes
        self.digests[name] = digest(tensor)
        return tensor

    def where(self, name: str) -> str:
        """With its file."""
        return f"{name} of {self._file_of[name]}"


def _mapped(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightError(
            str(path),
            f"cannot be opened as plain tensors ({reason})",
            "download it again, or save the model as safetensors (transformers' save_pretrained)",
        ) from error
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise WeightError(str(path), "holds more than named tensors", DOWNLOAD)
    return content
