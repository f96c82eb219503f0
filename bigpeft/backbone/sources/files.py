"""One safetensors file: its header, and its tensors, mapped rather than read.

A mapped tensor is hashed and packed straight out of the page cache, without a copy of its own:
benchmarks/loading.py measures both. A file is opened anew for each tensor, so no more than that
tensor stays mapped.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bigpeft.backbone.sources.source import DOWNLOAD
from bigpeft.errors import WeightError

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

NAMED = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
"""What torch, configurations and our manifests call them."""


@dataclass(frozen=True)
class Stored:
    """A tensor of a file. `dtype` is what safetensors calls it."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


def dtype_of(stored: Stored, name: str) -> torch.dtype:
    """Raises WeightError for a kind of numbers that bigpeft does not read, such as 8-bit floats."""
    found = DTYPES.get(stored.dtype)
    if found is None:
        raise WeightError(
            str(stored.path),
            f"holds {name} as {stored.dtype}, which bigpeft does not read",
            "use the model in bf16, fp16 or fp32",
        )
    return found


def header(path: Path) -> dict[str, Stored]:
    """Every tensor of the file. Raises WeightError for one that is cut off or no safetensors."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Stored(path, part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise WeightError(
            str(path), f"is truncated or no safetensors file ({error})", DOWNLOAD
        ) from error


def read(stored: Stored, name: str) -> Tensor:
    """The tensor of this name, mapped as long as it lives. Raises WeightError, naming the file."""
    dtype_of(stored, name)
    try:
        with safe_open(stored.path, framework="pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightError(str(stored.path), f"cannot be read ({error})", DOWNLOAD) from error
