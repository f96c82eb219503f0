"""Where weights come from: the safetensors of a folder, read tensor by tensor, or random ones."""

import json
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.backbone.slots import empty_slots
from bigpeft.errors import WeightError
from bigpeft.world import stable_seed

_DOWNLOAD = "download or copy the model again"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class WeightSource(ABC):
    """Named tensors; `bytes_read` counts what this process has read."""

    bytes_read: int = 0

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The dtype of one tensor, without reading it."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor on the CPU, in the dtype it is stored in."""


class SafetensorsFolder(WeightSource):
    """model.safetensors, or the shards that model.safetensors.index.json lists.

    A file is opened anew for each tensor, so no more than that tensor stays mapped.
    Raises WeightError, naming the file, for a missing or truncated one.
    """

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for path, listed in _files(folder).items():
            header = _header(path)
            for name in listed if listed is not None else header:
                if name not in header:
                    raise WeightError(
                        str(path), f"does not hold {name}, which the index says", _DOWNLOAD
                    )
                self._file_of[name] = path
                self._shapes[name], self._dtypes[name] = header[name]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """From the files' headers."""
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        """From the file's header."""
        return DTYPES[self._dtypes[name]]

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from the file as long as it lives."""
        path = self._file_of[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise WeightError(str(path), f"cannot be read ({error})", _DOWNLOAD) from error
        self.bytes_read += tensor.nbytes
        return tensor


def _files(folder: Path) -> dict[Path, list[str] | None]:
    """File → the tensors that an index promises in it, None for all that it holds."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        except (ValueError, KeyError) as error:
            raise WeightError(str(index), f"is not a weight index ({error})", _DOWNLOAD) from error
        files: dict[Path, list[str] | None] = {}
        for name, file in weight_map.items():
            listed = files.setdefault(folder / file, [])
            assert listed is not None
            listed.append(name)
        for path in files:
            if not path.is_file():
                raise WeightError(str(path), "is missing, but the index lists it", _DOWNLOAD)
        return files
    single = folder / "model.safetensors"
    if single.is_file():
        return {single: None}
    raise WeightError(
        str(folder),
        "has neither model.safetensors nor model.safetensors.index.json",
        "save the model with transformers' save_pretrained, which writes safetensors",
    )


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Tensor → its shape and what safetensors calls its dtype."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise WeightError(
            str(path), f"is truncated or no safetensors file ({error})", _DOWNLOAD
        ) from error


class RandomWeights(WeightSource):
    """Weights that no file holds: normal matrices, each a function of (seed, name) alone."""

    def __init__(self, model: PreTrainedModel, std: float, seed: int) -> None:
        self._shapes = {slot.names[0]: slot.shape for slot in empty_slots(model)}
        self._std, self._seed = std, seed

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the skeleton asks for."""
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        """They are made in fp32."""
        return torch.float32

    def read(self, name: str) -> Tensor:
        """Normal for matrices, zeros for biases, ones for other vectors (norms)."""
        shape = self._shapes[name]
        if len(shape) < 2:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        generator = torch.Generator().manual_seed(stable_seed(self._seed, name))
        return torch.randn(shape, generator=generator) * self._std
