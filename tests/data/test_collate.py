"""Padding. Oracle: the rows themselves, read back through mask and labels."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from bigpeft.data import Tokens, collate

PAD = 3  # also a learned token below

row = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=20)


def tokens_of(rows):
    return Tokens.of(
        [
            (
                torch.tensor([i for i, _ in row], dtype=torch.int32),
                torch.tensor([t for _, t in row]),
            )
            for row in rows
        ]
    )


@given(st.lists(row, min_size=1, max_size=5))
def test_rows_come_back_out_of_their_batch(rows):
    batch = collate(tokens_of(rows), list(range(len(rows))), PAD)

    length = batch["input_ids"].shape[1]
    assert length % 8 == 0
    assert 0 <= length - max(map(len, rows)) < 8
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    for index, row in enumerate(rows):
        ids, mask, labels = (
            batch[name][index] for name in ("input_ids", "attention_mask", "labels")
        )
        n = len(row)
        assert mask.tolist() == [1] * n + [0] * (length - n)
        assert ids.tolist() == [i for i, _ in row] + [PAD] * (length - n)
        assert labels.tolist() == [i if t else -100 for i, t in row] + [-100] * (length - n)


def test_a_learned_token_equal_to_the_pad_token_keeps_its_label():
    batch = collate(tokens_of([[(5, False), (PAD, True)]]), [0], PAD)

    assert batch["labels"][0, :2].tolist() == [-100, PAD]
    assert batch["attention_mask"][0, :3].tolist() == [1, 1, 0]


def test_no_rows_make_one_row_without_a_label():
    batch = collate(tokens_of([[(5, True)]]), [], PAD)

    assert_close(batch["input_ids"], torch.full((1, 8), PAD))
    assert_close(batch["attention_mask"], torch.ones(1, 8).long())
    assert_close(batch["labels"], torch.full((1, 8), -100))
