"""How weights lie in the files of a new folder: dense, packed, or as bitsandbytes has them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigpeft.backbone.copies.writer import Bundle, Entry
from bigpeft.backbone.fingerprint import Fingerprint
from bigpeft.backbone.slots import Slot
from bigpeft.backbone.sources.packed import PackedManifest
from bigpeft.errors import RecipeError
from bigpeft.quant import Codec
from bigpeft.quant.four_bit import NESTED_BLOCK, FourBit, nested_levels

CPU = torch.device("cpu")
_STATE_BYTES = 320


class Layout(ABC):
    """From a tensor as the base has it to the tensors that a file keeps of it."""

    whole: bool = False
    """Whether tensors of the base that the model does not use are kept too."""

    @abstractmethod
    def bundle(
        self, slot: Slot | None, name: str, dtype: torch.dtype, shape: Sequence[int]
    ) -> Bundle:
        """What will be kept of tensor `name`, which fills `slot` if the model uses it."""

    @abstractmethod
    def tensors(self, slot: Slot | None, tensor: Tensor, bundle: Bundle) -> list[Tensor]:
        """The numbers of that bundle."""


class Dense(Layout):
    """Every tensor under its name, in the dtype of the base."""

    whole = True

    def bundle(
        self, slot: Slot | None, name: str, dtype: torch.dtype, shape: Sequence[int]
    ) -> Bundle:
        """One tensor."""
        return Bundle(name, (Entry(name, dtype, tuple(shape)),))

    def tensors(self, slot: Slot | None, tensor: Tensor, bundle: Bundle) -> list[Tensor]:
        """The tensor itself."""
        return [tensor.to(bundle.entries[0].dtype)]


class Packed(Dense):
    """A linear's weight as the bytes of a codec, the rest dense. `manifest` completes it."""

    whole = False

    def __init__(self, codec: Codec) -> None:
        if not codec.quantises:
            raise RecipeError("--weights", f"{codec.name} packs nothing", "write nf4 or fp4")
        self.codec = codec

    def bundle(
        self, slot: Slot | None, name: str, dtype: torch.dtype, shape: Sequence[int]
    ) -> Bundle:
        """uint8 (nbytes,) under the name of the dense tensor."""
        if slot is None or slot.linear is None:
            return super().bundle(slot, name, dtype, shape)
        nbytes = self.codec.nbytes(slot.linear.base.shape)
        return Bundle(name, (Entry(name, torch.uint8, (nbytes,)),))

    def tensors(self, slot: Slot | None, tensor: Tensor, bundle: Bundle) -> list[Tensor]:
        """The packed bytes."""
        if slot is None or slot.linear is None:
            return super().tensors(slot, tensor, bundle)
        return [self.codec.encode(slot.linear.turned(tensor))]

    def manifest(
        self,
        slots: Mapping[str, Slot],
        source: Fingerprint,
        stored: Mapping[str, str],
        files: Mapping[str, tuple[int, str]],
    ) -> PackedManifest:
        """Of a folder made from `source`. `stored`: tensor → hash of what the files keep."""
        linears = {key: slot.linear for key, slot in slots.items() if slot.linear is not None}
        return PackedManifest(
            codec=self.codec.name,
            codec_version=self.codec.version,
            block=self.codec.options.block,
            nested=self.codec.options.nested,
            packed=tuple(linears),
            transposed=tuple(key for key, linear in linears.items() if linear.transposed),
            stored=stored,
            files=files,
            source=source,
        )


class BitsAndBytes(Dense):
    """What `save_pretrained` writes of a model that transformers loaded in 4 bits.

    Raises RecipeError for a format that bitsandbytes does not have.
    """

    whole = False

    def __init__(self, codec: Codec) -> None:
        if not isinstance(codec, FourBit):
            raise RecipeError(
                "--weights", f"{codec.name} is none of bitsandbytes", "write nf4 or fp4"
            )
        self._codec = codec

    def bundle(
        self, slot: Slot | None, name: str, dtype: torch.dtype, shape: Sequence[int]
    ) -> Bundle:
        """Codes, statistics, tables, and a JSON state of fixed length."""
        if slot is None or slot.linear is None:
            return super().bundle(slot, name, dtype, shape)
        if slot.linear.transposed:
            raise RecipeError(
                "--format", f"{name} is a Conv1D, which has no such form here", "write packed"
            )
        rows, columns = slot.linear.base.shape
        meta = torch.empty(self._codec.nbytes((rows, columns)), dtype=torch.uint8, device="meta")
        parts = self._named(name, self._codec.split(meta, (rows, columns)), meta.device)
        entries = [Entry(key, part.dtype, tuple(part.shape)) for key, part in parts.items()]
        state = Entry(self._state_key(name), torch.uint8, (_STATE_BYTES,))
        return Bundle(name, (*entries, state))

    def tensors(self, slot: Slot | None, tensor: Tensor, bundle: Bundle) -> list[Tensor]:
        """The parts of the packed weight."""
        if slot is None or slot.linear is None:
            return super().tensors(slot, tensor, bundle)
        shape = slot.linear.base.shape
        parts = self._codec.split(self._codec.encode(tensor), shape)
        mean = float(parts[3]) if self._codec.options.nested else None
        named = self._named(bundle.name, parts, tensor.device)
        return [*named.values(), _state(self._codec, shape, tensor.dtype, mean)]

    def divides(self, slot: Slot) -> bool:
        """Whether no block of this weight goes over the end of a row."""
        return slot.linear is None or slot.linear.base.shape[1] % self._codec.options.block == 0

    def config(self, dtype: torch.dtype, dense_linears: Collection[str]) -> dict[str, Any]:
        """`quantization_config` of config.json."""
        return {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "load_in_8bit": False,
            "bnb_4bit_quant_type": self._codec.levels,
            "bnb_4bit_use_double_quant": self._codec.options.nested,
            "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch."),
            "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": sorted(dense_linears),
        }

    def _named(self, name: str, parts: Sequence[Tensor], device: torch.device) -> dict[str, Tensor]:
        codes, scales = parts[:2]
        table = self._codec.table().to(device)
        named = {name: codes.view(-1, 1), f"{name}.absmax": scales, f"{name}.quant_map": table}
        if self._codec.options.nested:
            named[f"{name}.nested_absmax"] = parts[2]
            named[f"{name}.nested_quant_map"] = nested_levels(CPU).to(device)
        return named

    def _state_key(self, name: str) -> str:
        return f"{name}.quant_state.bitsandbytes__{self._codec.levels}"


def _state(
    codec: FourBit, shape: tuple[int, int], dtype: torch.dtype, mean: float | None
) -> Tensor:
    """JSON, filled up with spaces: how long a number will be is not known before."""
    said: dict[str, Any] = {
        "quant_type": codec.levels,
        "blocksize": codec.options.block,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": list(shape),
    }
    if mean is not None:
        nested = {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"}
        said |= {**nested, "nested_offset": mean}
    return torch.tensor(list(json.dumps(said).ljust(_STATE_BYTES).encode()), dtype=torch.uint8)


def say_quantised(folder: Path, said: Mapping[str, Any] | None) -> None:
    """Put `quantization_config` into a folder's config.json; None takes it out."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("quantization_config", None)
    if said is not None:
        config["quantization_config"] = dict(said)
    path.write_text(json.dumps(config, indent=2) + "\n")
