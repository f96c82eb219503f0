"""Weights that have to be those of one base: every tensor is compared as it is read."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bigpeft.backbone.fingerprint import Fingerprint
from bigpeft.backbone.sources.source import WeightSource
from bigpeft.errors import WeightError
from bigpeft.quant import Codec

_FIX = "use the base that it was trained on, or download it again if it is the same"


class Verified(WeightSource):
    """`source` for `owner`, whose base has this fingerprint.

    Raises WeightError, at once for another structure, at the first read for other numbers.
    """

    def __init__(self, source: WeightSource, base: Fingerprint, owner: str) -> None:
        super().__init__()
        self._source, self._base, self._owner = source, base, owner
        self.exact, self.hashes_dense = source.exact, source.hashes_dense
        shapes = source.shapes()
        for name, (kind, shape, _) in base.tensors.items():
            found = f"{_dtype(source, name)} {shapes[name]}" if name in shapes else "missing"
            if found != f"{kind} {shape}":
                raise self._another(f"{name} is {kind} {shape} there, {found} here")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The source's."""
        return self._source.shapes()

    def dtype(self, name: str) -> torch.dtype:
        """The source's."""
        return self._source.dtype(name)

    def where(self, name: str) -> str:
        """The source's."""
        return self._source.where(name)

    def read(self, name: str) -> Tensor:
        """The source's tensor, once it is known to be the right one."""
        tensor = self._source.read(name)
        self._compare(name, self._source.digests)
        return tensor

    def packed(self, name: str, codec: Codec) -> Tensor | None:
        """The source's bytes."""
        packed = self._source.packed(name, codec)
        if packed is not None:
            self._compare(name, self._source.digests)
        return packed

    def packed_as(self) -> dict[str, Codec]:
        """The source's."""
        return self._source.packed_as()

    def _compare(self, name: str, digests: Mapping[str, str]) -> None:
        self.bytes_read = self._source.bytes_read
        self.digests[name] = here = digests[name]
        if name in self._base.tensors and (there := self._base.tensors[name][2]) != here:
            raise self._another(f"the hash of {name} is {there[:16]} there, {here[:16]} here")

    def _another(self, reason: str) -> WeightError:
        said = f"was trained on base {self._base.short}, the model here is another one: {reason}"
        return WeightError(self._owner, said, _FIX)


def _dtype(source: WeightSource, name: str) -> str:
    return str(source.dtype(name)).removeprefix("torch.")
