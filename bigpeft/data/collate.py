"""Rows → one padded micro-batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bigpeft.data.tokens import Tokens

NO_LOSS = -100
Item = tuple[Tensor, ...]
"""What one place of a micro-batch is made of, before it is padded."""

_MULTIPLE = 8  # tensor cores want lengths divisible by 8


def collate(tokens: Tokens, rows: list[int], pad_id: int) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels`, all int64 (rows, length), padded on the right.

    Length is the longest row's, rounded up to a multiple of 8. Labels are not shifted and are -100
    where a token is no target or padding; what is padding comes from lengths, never from `pad_id`,
    which may equal a learned EOS. No rows give one row of padding without a label: under ZeRO-3
    every process must make as many forward passes as the others.
    """
    return stacked([tokens.row(index) for index in rows], pad_id)


def stacked(rows: Sequence[Item], pad_id: int) -> dict[str, Tensor]:
    """The same of rows that are ids (n,) and targets (n,)."""
    if not rows:
        return {
            "input_ids": torch.full((1, _MULTIPLE), pad_id),
            "attention_mask": torch.ones(1, _MULTIPLE, dtype=torch.int64),
            "labels": torch.full((1, _MULTIPLE), NO_LOSS),
        }
    longest = max(len(ids) for ids, _ in rows)
    shape = (len(rows), rounded(longest))
    input_ids, labels = torch.full(shape, pad_id), torch.full(shape, NO_LOSS)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    for index, (ids, targets) in enumerate(rows):
        ids = ids.long()
        input_ids[index, : len(ids)] = ids
        attention_mask[index, : len(ids)] = 1
        labels[index, : len(ids)] = torch.where(targets, ids, NO_LOSS)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def rounded(length: int) -> int:
    """The next length that tensor cores like."""
    return -(-length // _MULTIPLE) * _MULTIPLE


@dataclass(frozen=True)
class Padded:
    """Micro-batches of single rows."""

    tokens: Tokens
    pad_id: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.tokens)

    def __str__(self) -> str:
        return f"{len(self)} rows"

    def lengths(self) -> Tensor:
        """Tokens of each row, int64 (rows,)."""
        return self.tokens.offsets.diff()

    def item(self, index: int) -> Item:
        """Ids and targets (n,) of one row."""
        return self.tokens.row(index)

    def batch(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """As `collate` makes them."""
        return stacked(items, self.pad_id)
