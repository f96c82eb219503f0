"""Several short rows in one row of the model: packs, filled by best-fit decreasing."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bigpeft.data.collate import NO_LOSS, Item, rounded
from bigpeft.data.tokens import Tokens


@dataclass(frozen=True)
class Packs:
    """Which rows lie in which pack: `members` int64 (rows,), pack i being [offsets[i],
    offsets[i + 1]) of them; `fill` is the share of all packs' places that hold a token.
    """

    members: Tensor
    offsets: Tensor
    fill: float

    def __len__(self) -> int:
        """Number of packs."""
        return len(self.offsets) - 1

    def rows(self, index: int) -> list[int]:
        """Rows of one pack, in the order in which they lie."""
        start, end = self.offsets[index : index + 2].tolist()
        return self.members[start:end].tolist()


def pack(lengths: Tensor, size: int) -> Packs:
    """Rows of these `lengths` int64 (rows,), each at most `size`, in packs of `size` tokens.

    Best-fit decreasing: from the longest row to the shortest, each goes where the least room is
    left after it. A function of its arguments alone.
    """
    packs: list[list[int]] = []
    rooms: list[int] = []  # sizes of room that some pack has, ascending
    with_room: dict[int, list[int]] = {}
    order = torch.sort(lengths, descending=True, stable=True).indices.tolist()
    for row, length in zip(order, lengths[order].tolist(), strict=True):
        place = bisect_left(rooms, length)
        if place == len(rooms):
            chosen, room = len(packs), size
            packs.append([])
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                del rooms[place], with_room[room]
        packs[chosen].append(row)
        left = room - length
        if left not in with_room:
            insort(rooms, left)
            with_room[left] = []
        with_room[left].append(chosen)
    return Packs(
        members=torch.tensor([row for rows in packs for row in rows], dtype=torch.int64),
        offsets=torch.tensor([0, *map(len, packs)]).cumsum(0),
        fill=int(lengths.sum()) / max(1, len(packs) * size),
    )


@dataclass(frozen=True)
class Packed:
    """Micro-batches of packs. The model tells rows apart by positions that begin again at 0.

    `flat` ones are a single row without padding between packs, as variable-length flash attention
    wants it.
    """

    tokens: Tokens
    packs: Packs
    pad_id: int
    flat: bool

    def __len__(self) -> int:
        """Number of packs."""
        return len(self.packs)

    def __str__(self) -> str:
        return f"{len(self.tokens)} rows in {len(self)} packs, {self.packs.fill:.1%} of them filled"

    def lengths(self) -> Tensor:
        """Tokens of each pack, int64 (packs,)."""
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), self._lengths().cumsum(0)])
        return ends[self.packs.offsets].diff()

    def item(self, index: int) -> Item:
        """Ids, positions and labels (n,) of one pack."""
        rows = [self.tokens.row(row) for row in self.packs.rows(index)]
        ids = torch.cat([ids for ids, _ in rows]).long()
        targets = torch.cat([targets for _, targets in rows])
        positions = torch.cat([torch.arange(len(ids)) for ids, _ in rows])
        return ids, positions, torch.where(targets, ids, NO_LOSS)

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """`input_ids`, `position_ids` and `labels` int64 (packs or 1, length), and how many
        `tokens` are no padding. Padding is a row of its own at the end.
        """
        packs = list(items)
        tokens = sum(len(ids) for ids, _, _ in packs)
        if self.flat:
            whole = [torch.cat(parts) for parts in zip(*packs, strict=True)]
            packs = [(whole[0], whole[1], whole[2])]
        length = rounded(max(len(ids) for ids, _, _ in packs))
        shape = (len(packs), length)
        batch = {
            "input_ids": torch.full(shape, self.pad_id),
            "position_ids": torch.zeros(shape, dtype=torch.int64),
            "labels": torch.full(shape, NO_LOSS),
        }
        for index, (ids, positions, labels) in enumerate(packs):
            end = len(ids)
            batch["input_ids"][index, :end] = ids
            batch["position_ids"][index, :end] = positions
            batch["position_ids"][index, end:] = torch.arange(length - end)
            batch["labels"][index, :end] = labels
        return batch | {"tokens": torch.tensor(tokens)}

    def _lengths(self) -> Tensor:
        return self.tokens.offsets.diff()[self.packs.members]
