"""W' a few rows at a time, where a method lets rows merge by themselves."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import Self

import torch
from torch import Tensor

from bigpeft.backbone import WeightSource
from bigpeft.backbone.slots import Slot
from bigpeft.export.run import FinishedRun
from bigpeft.methods import LinearMethod

_NUMBERS = 1 << 19
"""Of a piece, which is written at once."""
_FEW = 32
"""Rows that are computed at once, and stay in a core's cache."""


@dataclass
class _Open:
    """A tensor that is being read or merged, and how many of its pieces are still to come."""

    tensor: Future[Tensor]
    waiting: int


class ByRows:
    """Pieces of merged tensors, for each tensor in turn; the next tensor is read meanwhile.

    To be asked for each piece once, from any thread, in a with statement.
    """

    def __init__(self, run: FinishedRun, source: WeightSource, slots: Sequence[Slot]) -> None:
        self._run, self._source = run, source
        able = (slot for slot in slots if self._method(slot) is not None)
        counts = {slot.key: -(-slot.shape[0] // _rows(slot)) for slot in able}
        self._pieces = {key: count for key, count in counts.items() if count > 1}
        self._next = dict(pairwise(self._pieces))
        self._open: dict[str, _Open] = {}
        self._lock = Lock()
        self._reader = ThreadPoolExecutor(1)

    def pieces(self, name: str) -> int:
        """How many pieces this tensor of the base is made in; 1 where it has to be whole."""
        return self._pieces.get(name, 1)

    def piece(self, slot: Slot, number: int, dtype: torch.dtype) -> Tensor:
        """The rows of W' of this piece (from 0), computed in fp32."""
        method = self._method(slot)
        assert method is not None
        weight = self._weight(slot.key)
        start = number * _rows(slot)
        stop = min(start + _rows(slot), slot.shape[0])
        merged = torch.empty(stop - start, slot.shape[1], dtype=dtype)
        for first in range(start, stop, _FEW):
            rows = slice(first, min(first + _FEW, stop))
            merged[first - start : rows.stop - start] = method.merge_rows(weight[rows], rows)
        return merged

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _method(self, slot: Slot) -> LinearMethod | None:
        linear = slot.linear
        if linear is None or linear.transposed or any(n in self._run.dense for n in slot.names):
            return None
        method = self._run.seated.get(linear.name)
        able = isinstance(method, LinearMethod) and method.by_rows and not method.edits_base
        return method if able else None  # type: ignore[return-value]

    def _weight(self, key: str) -> Tensor:
        """W, let go of with its last piece."""
        with self._lock:
            mine = self._opened(key)
            mine.waiting -= 1
            if not mine.waiting:
                del self._open[key]
            if key in self._next and mine.waiting:
                self._opened(self._next[key])
        return mine.tensor.result()

    def _opened(self, key: str) -> _Open:
        if key not in self._open:
            reading = self._reader.submit(self._source.read, key)
            self._open[key] = _Open(reading, self._pieces[key])
        return self._open[key]


def _rows(slot: Slot) -> int:
    return _FEW * max(1, _NUMBERS // _FEW // slot.shape[1])
