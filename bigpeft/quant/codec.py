"""The contract of a quantisation format: a dense weight ⇄ one flat uint8 tensor.

The flat tensor holds everything that decoding needs, statistics included, so that ZeRO-3 shards
all of it. Tables that are the same for every weight are constants of the format, one per device.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

ALIGNMENT = 16


@dataclass(frozen=True)
class CodecOptions:
    """What a recipe may choose about the format.

    `block`: weights that share one scale (bitsandbytes: 32 to 4096). `nested`: the scales are
    quantised too. `dtype`: of the numbers that `none` keeps.
    """

    block: int = 64
    nested: bool = True
    dtype: torch.dtype = torch.float32


class Codec(ABC):
    """A pure pair of functions between dense weights and bytes; no files, ranks or modules."""

    version: ClassVar[int] = 1
    quantises: ClassVar[bool] = True
    """Whether the bytes are fewer than those of the dense weight, and worth a file of their own."""

    def __init__(self, options: CodecOptions) -> None:
        self.options = options

    @property
    def name(self) -> str:
        """What recipes and files call the format: the name of its module."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def identity(self) -> list[str | int]:
        """What the bytes of a weight depend on: format, its version, block, nested."""
        return [self.name, self.version, self.options.block, self.options.nested]

    @abstractmethod
    def nbytes(self, shape: tuple[int, int]) -> int:
        """Length of the flat tensor for a weight of this shape (out_features, in_features)."""

    @abstractmethod
    def encode(self, weight: Tensor) -> Tensor:
        """Dense (out_features, in_features), any float dtype → uint8 (nbytes,), same device."""

    @abstractmethod
    def decode(self, flat: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """uint8 (nbytes,) → dense (out_features, in_features) in dtype, same device."""


def sections(sizes: list[int]) -> tuple[list[tuple[int, int]], int]:
    """Byte ranges of consecutive sections, each starting on a 16-byte line, and the total."""
    ranges, start = [], 0
    for size in sizes:
        ranges.append((start, start + size))
        start = -(-(start + size) // ALIGNMENT) * ALIGNMENT
    return ranges, start


def view_as(section: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 bytes seen as dtype; copied first where they do not lie on a multiple of its size."""
    if section.storage_offset() % dtype.itemsize:
        section = section.clone()
    return section.view(dtype)
