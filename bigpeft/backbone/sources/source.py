"""What the loader, merge and quantize want of weights, wherever these come from."""

from abc import ABC, abstractmethod

import torch
import xxhash
from torch import Tensor

from bigpeft.errors import WeightError
from bigpeft.quant import Codec

DOWNLOAD = "download or copy the model again"


class WeightSource(ABC):
    """Named tensors. May be read from several threads, each tensor by one of them.

    `bytes_read` counts what this process has read of files; `digests` has the hash of every
    tensor's numbers that this process has read, as the base model stores them.
    """

    exact: bool = True
    """Whether `read` gives the numbers of the base, not what their codes decode to."""

    hashes_dense: bool = True
    """Whether `digests` are those of the dense base, be it packed here or not."""

    owned: bool = False
    """Whether what `read` gives is the caller's own, never memory that a file is mapped to."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.digests: dict[str, str] = {}

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and dense shape, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The dtype of one dense tensor, without reading it."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One dense tensor on the CPU, as it is stored; it may be mapped from a file."""

    def where(self, name: str) -> str:
        """What messages call a tensor: its name, and its file where there is one."""
        return name

    def packed(self, name: str, codec: Codec) -> Tensor | None:
        """W as this codec packs it, uint8 (nbytes,), where the source has it so; else None.

        Raises WeightError where the source has it packed in another way.
        """
        return None

    def packed_as(self) -> dict[str, Codec]:
        """The codec of what is packed already, by the name of the weight or folder."""
        return {}

    def check_codec(self, codec: Codec) -> None:
        """Raise WeightError where something is packed in another way, without reading it."""
        for what, found in self.packed_as().items():
            refuse_another_codec(what, found, codec)


def digest(*tensors: Tensor) -> str:
    """The xxh3 hash, 128 bits, of the tensors' bytes, one after another: as fast as memory."""
    total = xxhash.xxh3_128()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def refuse_another_codec(what: str, found: Codec, wanted: Codec) -> None:
    """Raise WeightError where weights are packed otherwise than the recipe says."""
    have, want = found.options, wanted.options
    same = (found.name, have.block, have.nested) == (wanted.name, want.block, want.nested)
    if not same:
        raise WeightError(
            what,
            f"is packed as {found.name}, block {have.block}, nested {str(have.nested).lower()}; "
            f"the recipe says {wanted.name}, {want.block}, {str(want.nested).lower()}",
            f"write model.weights={found.name} model.block={have.block} "
            f"model.nested={str(have.nested).lower()}",
        )
