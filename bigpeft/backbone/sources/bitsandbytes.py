"""Checkpoints that bitsandbytes packed to 4 bits: their codes and statistics as they are.

Beside `layer.weight`, the codes, such a file keeps `layer.weight.absmax` and, with double
quantisation, `nested_absmax`; `quant_state.bitsandbytes__nf4` is JSON with the shape, block sizes
and the mean. These are the sections of `quant.four_bit`, so nothing is decoded.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigpeft.backbone.sources.files import NAMED, dtype_of, read
from bigpeft.backbone.sources.safetensors import stored_tensors
from bigpeft.backbone.sources.source import WeightSource, digest, refuse_another_codec
from bigpeft.errors import WeightError
from bigpeft.quant import Codec, CodecOptions, codecs, make_codec
from bigpeft.quant.four_bit import NESTED_BLOCK, FourBit, nested_levels

_STATE = ".quant_state.bitsandbytes__"
CPU = torch.device("cpu")
_HELD = ("absmax", "nested_absmax")
_TABLES = ("quant_map", "nested_quant_map")


@dataclass(frozen=True)
class _Quantised:
    """What a file says about one packed weight."""

    kind: str
    block: int
    nested: bool
    shape: tuple[int, int]
    dtype: torch.dtype
    mean: float

    def codec(self) -> Codec:
        return make_codec(self.kind, CodecOptions(self.block, self.nested))


class BitsAndBytesFolder(WeightSource):
    """A folder that `save_pretrained` wrote from a model loaded in 4 bits.

    Raises WeightError for damaged files, and for tables or block sizes that bigpeft does not have.
    """

    exact = False
    hashes_dense = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._stored = stored_tensors(folder)
        self._quantised: dict[str, _Quantised] = {}
        for key in self._stored:
            name, found, kind = key.partition(_STATE)
            if found:
                self._quantised[name] = self._state(name, key, kind)
        parts = (f"{name}.{part}" for name in self._quantised for part in (*_HELD, *_TABLES))
        self._beside = {*parts, *(key for key in self._stored if _STATE in key)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Dense shapes; statistics are no tensors of the model."""
        return {
            name: self._quantised[name].shape if name in self._quantised else stored.shape
            for name, stored in self._stored.items()
            if name not in self._beside
        }

    def dtype(self, name: str) -> torch.dtype:
        """Of packed weights: what they were before packing."""
        quantised = self._quantised.get(name)
        return quantised.dtype if quantised else dtype_of(self._stored[name], name)

    def where(self, name: str) -> str:
        """With its file."""
        return f"{name} of {self._stored[name].path}"

    def read(self, name: str) -> Tensor:
        """A dense tensor; of a packed weight what its codes decode to."""
        if name not in self._quantised:
            tensor = self._part(name)
            self.digests[name] = digest(tensor)
            return tensor
        quantised = self._quantised[name]
        return quantised.codec().decode(self._flat(name), quantised.shape, quantised.dtype)

    def packed(self, name: str, codec: Codec) -> Tensor | None:
        """Codes and statistics, bit for bit. None for a weight that the file keeps dense."""
        quantised = self._quantised.get(name)
        if quantised is None:
            return None
        refuse_another_codec(name, quantised.codec(), codec)
        return self._flat(name)

    def packed_as(self) -> dict[str, Codec]:
        """By the state of each weight."""
        return {name: quantised.codec() for name, quantised in self._quantised.items()}

    def _flat(self, name: str) -> Tensor:
        quantised = self._quantised[name]
        codec = quantised.codec()
        assert isinstance(codec, FourBit)
        self._check_table(f"{name}.quant_map", codec.table())
        parts = [self._part(name).reshape(-1).view(torch.uint8), self._part(f"{name}.absmax")]
        if quantised.nested:
            self._check_table(f"{name}.nested_quant_map", nested_levels(CPU))
            mean = torch.tensor(quantised.mean, dtype=torch.float32)
            parts += [self._part(f"{name}.nested_absmax"), mean]
        if not all(bool(p.isfinite().all()) for p in parts if p.is_floating_point()):
            raise WeightError(
                self.where(name), "has scales that are NaN or infinite", "use other weights"
            )
        self.digests[name] = digest(*parts)
        return codec.join(parts, quantised.shape, name)

    def _part(self, key: str) -> Tensor:
        if key not in self._stored:
            raise WeightError(key, "is in no weight file", "download or copy the model again")
        tensor = read(self._stored[key], key)
        self.bytes_read += tensor.nbytes
        return tensor

    def _state(self, name: str, key: str, kind: str) -> _Quantised:
        try:
            if kind not in codecs():
                raise ValueError(f"format {kind!r}")
            state: dict[str, Any] = json.loads(bytes(read(self._stored[key], key).tolist()))
            nested = "nested_blocksize" in state
            found = _Quantised(
                kind=kind,
                block=state["blocksize"],
                nested=nested,
                shape=tuple(state["shape"]),
                dtype=NAMED[state["dtype"]],
                mean=state["nested_offset"] if nested else 0.0,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightError(
                key, f"is no state of bitsandbytes ({error})", "download the model again"
            ) from error
        if nested and state["nested_blocksize"] != NESTED_BLOCK:
            raise WeightError(
                name,
                f"has scales in blocks of {state['nested_blocksize']}, only {NESTED_BLOCK} is read",
                "use the dense model",
            )
        return found

    def _check_table(self, key: str, table: Tensor) -> None:
        if not torch.equal(self._part(key), table):
            raise WeightError(key, "is not the table of bitsandbytes", "use the dense model")
