"""What nf4 and fp4 share: 4-bit codes with a scale per block, as bitsandbytes makes them.

Sections of the flat tensor: codes | scales | scales of the scales | their mean. Codes and scales
are bit-identical to `bitsandbytes.functional.quantize_4bit`, so weights exchange with it exactly.

bitsandbytes 0.50 decodes a weight whose in_features is no multiple of the block wrongly on CPUs
with AVX-512, and compiles code for an odd one. Its kernel is right for one long row, so such
weights are decoded as that.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor

from bigpeft.errors import RecipeError, WeightError
from bigpeft.quant.codec import Codec, CodecOptions, sections, view_as

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
NESTED_BLOCK = 256
PIECE = 1 << 20


@cache
def _bitsandbytes() -> ModuleType:
    """Imported when first needed: it registers its kernels with torch, which takes seconds."""
    import bitsandbytes.functional

    return bitsandbytes.functional


@cache
def nested_levels(device: torch.device) -> Tensor:
    """The 256 levels of a quantised scale, a constant of the format."""
    return _bitsandbytes().create_dynamic_map().to(device)


def _pieces(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The flattened weight in whole blocks: on a CPU packing needs five times what it packs."""
    numbers = weight.reshape(-1)
    for start in range(0, numbers.numel(), PIECE):
        yield start, numbers[start : start + PIECE]


class FourBit(Codec):
    """Blockwise 4-bit codes; the subclass names the 16 levels."""

    levels: ClassVar[str]

    def __init__(self, options: CodecOptions) -> None:
        if options.block not in BLOCKS:
            raise RecipeError(
                "model.block",
                f"{options.block} is not a block size of bitsandbytes",
                f"write one of {', '.join(map(str, BLOCKS))}",
            )
        super().__init__(options)

    def table(self) -> Tensor:
        """The 16 levels, fp32 on the CPU."""
        table: Tensor = _bitsandbytes().get_4bit_type(self.levels, device="cpu")
        return table

    def _ranges(self, shape: tuple[int, int]) -> tuple[list[tuple[int, int]], int]:
        numbers = shape[0] * shape[1]
        blocks = -(-numbers // self.options.block)
        codes = -(-numbers // 2)
        if self.options.nested:
            return sections([codes, blocks, 4 * -(-blocks // NESTED_BLOCK), 4])
        return sections([codes, 4 * blocks])

    def nbytes(self, shape: tuple[int, int]) -> int:
        """Half a byte per weight and the statistics of its blocks, padded to 16-byte lines."""
        return self._ranges(shape)[1]

    def encode(self, weight: Tensor) -> Tensor:
        """Dense (out_features, in_features) → uint8 (nbytes,)."""
        shape = (weight.shape[0], weight.shape[1])
        ranges, total = self._ranges(shape)
        flat = torch.zeros(total, dtype=torch.uint8, device=weight.device)
        codes = flat[slice(*ranges[0])]
        scales = []
        for start, piece in _pieces(weight):
            piece_codes, state = _bitsandbytes().quantize_4bit(
                piece, blocksize=self.options.block, quant_type=self.levels
            )
            codes[start // 2 : start // 2 + piece_codes.numel()] = piece_codes.view(-1)
            scales.append(state.absmax)
        for (start, end), part in zip(ranges[1:], self._statistics(scales), strict=True):
            flat[start:end] = part.reshape(-1).view(torch.uint8)
        return flat

    def join(self, parts: Sequence[Tensor], shape: tuple[int, int], name: str) -> Tensor:
        """Codes and statistics of W (out_features, in_features) as bitsandbytes keeps them → flat.

        Raises WeightError, naming the weight, for sections of another length.
        """
        ranges, total = self._ranges(shape)
        flat = torch.zeros(total, dtype=torch.uint8, device=parts[0].device)
        for (start, end), part in zip(ranges, parts, strict=True):
            section = part.contiguous().reshape(-1).view(torch.uint8)
            if section.numel() != end - start:
                raise WeightError(
                    name,
                    f"has {section.numel()} bytes in a section of {end - start}",
                    "download or copy the model again",
                )
            flat[start:end] = section
        return flat

    def split(self, flat: Tensor, shape: tuple[int, int]) -> list[Tensor]:
        """The inverse of `join`: codes, scales and, nested, scales of scales and their mean."""
        parts = [flat[start:end] for start, end in self._ranges(shape)[0]]
        if not self.options.nested:
            return [parts[0], view_as(parts[1], torch.float32)]
        return [*parts[:2], *(view_as(part, torch.float32) for part in parts[2:])]

    def _statistics(self, pieces: list[Tensor]) -> list[Tensor]:
        """The sections after the codes, made as bitsandbytes makes nested statistics."""
        scales = torch.cat(pieces)
        if not self.options.nested:
            return [scales]
        mean = scales.mean()
        codes, state = _bitsandbytes().quantize_blockwise(scales - mean, blocksize=NESTED_BLOCK)
        return [codes, state.absmax, mean]

    def decode(self, flat: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """uint8 (nbytes,) → dense (out_features, in_features); fp64 is widened from fp32."""
        _bitsandbytes()
        out_features, in_features = shape
        codes, *statistics = self.split(flat, shape)
        row = out_features * in_features
        whole_blocks = in_features % self.options.block == 0
        computed = dtype if dtype != torch.float64 else torch.float32
        dense = torch.ops.bitsandbytes.dequantize_4bit.default(
            codes.view(-1, 1),
            self._scales(statistics),
            self.options.block,
            self.levels,
            shape if whole_blocks else (2 * codes.numel(),),
            computed,
        )
        return dense.reshape(-1)[:row].view(shape).to(dtype)

    def _scales(self, statistics: list[Tensor]) -> Tensor:
        """One fp32 scale per block."""
        if not self.options.nested:
            return statistics[0]
        codes, scales, mean = statistics
        decoded = torch.ops.bitsandbytes.dequantize_blockwise.default(
            codes,
            scales,
            nested_levels(codes.device),
            NESTED_BLOCK,
            torch.float32,
        )
        return decoded.add_(mean)
