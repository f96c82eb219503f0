"""Which row comes when: a pure function of seed, epoch and position, and who takes which."""

import hashlib
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Row = TypeVar("Row")
_WINDOW = 2048
"""Rows of a shuffled epoch that are sorted by length together."""
_BLOCK = 32
"""Rows of about one length that stay together when a window is shuffled again."""


def sample_indices(
    rows: int, seed: int, shuffle: bool, start: int, count: int, lengths: Tensor | None = None
) -> list[int]:
    """Rows at positions [start, start + count) of the endless sequence of epochs.

    Each epoch holds every row once, in file order or in an order that depends on (seed, epoch)
    alone, so a run may be cut and resumed anywhere, on any number of processes. With `lengths`
    int64 (rows,) a shuffled epoch has rows of about one length beside each other.
    """
    if rows < 1:
        raise ValueError(f"an epoch needs at least one row, not {rows}")
    found: list[int] = []
    while len(found) < count:
        epoch, first = divmod(start + len(found), rows)
        last = min(rows, first + count - len(found))
        if shuffle:
            order = (
                _permutation(rows, seed, epoch)
                if lengths is None
                else _grouped(lengths, seed, epoch)
            )
            found += order[first:last].tolist()
        else:
            found += range(first, last)
    return found


def share(rows: list[Row], rank: int, world: int, micro_size: int) -> list[list[Row]]:
    """One rank's micro-batches of one step's rows, or their numbers.

    Micro-batch k of rank r takes [(k·world + r)·micro_size, + micro_size): all ranks' first
    micro-batches, then all their second ones. Every rank gets equally many; when the rows do not
    fill them (the end of an evaluation), the last ones are short or empty.
    """
    per_pass = world * micro_size
    starts = range(rank * micro_size, -(-len(rows) // per_pass) * per_pass, per_pass)
    return [rows[start : start + micro_size] for start in starts]


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(rows, generator=_generator(seed, epoch))


@lru_cache(maxsize=2)
def _grouped(lengths: Tensor, seed: int, epoch: int) -> Tensor:
    """Windows of the permutation, each sorted by length and shuffled again in blocks."""
    generator = _generator(seed, epoch)
    order = torch.randperm(len(lengths), generator=generator)
    grouped = []
    for window in order.split(_WINDOW):
        blocks = window[lengths[window].sort(stable=True).indices].split(_BLOCK)
        grouped += [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
    return torch.cat(grouped)


def _generator(seed: int, epoch: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
