"""Packs. Oracles: what a partition is, and the rows themselves, read back out of their batch."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from bigpeft.data import Packed, pack
from tests.data.test_collate import PAD, row, tokens_of

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(lengths, st.integers(40, 90))
def test_every_row_lies_in_one_pack_and_no_pack_is_too_long(rows, size):
    packs = pack(torch.tensor(rows), size)

    inside = [packs.rows(index) for index in range(len(packs))]
    assert sorted(row for rows in inside for row in rows) == list(range(len(rows)))
    filled = [sum(rows[row] for row in members) for members in inside]
    assert max(filled) <= size
    assert packs.fill == sum(rows) / (size * len(packs))


@given(lengths, st.integers(40, 90))
def test_no_two_packs_would_fit_into_one(rows, size):
    packs = pack(torch.tensor(rows), size)

    filled = sorted(sum(rows[row] for row in packs.rows(index)) for index in range(len(packs)))
    assert len(filled) < 2 or filled[0] + filled[1] > size


def test_the_fullest_pack_that_has_room_takes_the_row():
    packs = pack(torch.tensor([6, 5, 4, 3]), 10)

    assert [packs.rows(index) for index in range(len(packs))] == [[0, 2], [1, 3]]


def test_lengths_as_people_write_leave_little_room():
    torch.manual_seed(0)
    drawn = torch.empty(5000).log_normal_(5.0, 0.8).long().clamp(8, 2048)

    assert pack(drawn, 2048).fill > 0.97


@given(st.lists(row, min_size=1, max_size=8), st.booleans())
def test_rows_come_back_out_of_their_packs(rows, flat):
    tokens = tokens_of(rows)
    packed = Packed(tokens, pack(tokens.offsets.diff(), 24), PAD, flat)

    batch = packed.batch([packed.item(index) for index in range(len(packed))])

    shape = batch["input_ids"].shape
    assert shape[0] == (1 if flat else len(packed))
    assert shape[1] % 8 == 0
    assert int(batch["tokens"]) == sum(map(len, rows))
    found = []
    for ids, positions, labels in zip(
        batch["input_ids"], batch["position_ids"], batch["labels"], strict=True
    ):
        starts = [*(positions == 0).nonzero().flatten().tolist(), len(positions)]
        for start, end in pairwise(starts):
            assert positions[start:end].tolist() == list(range(end - start))
            pairs = zip(ids[start:end].tolist(), labels[start:end].tolist(), strict=True)
            found.append([(i, label != -100) for i, label in pairs])
    for wanted in rows:
        found.remove(wanted)
    assert all(i == PAD and not target for rest in found for i, target in rest)
    assert len(found) <= shape[0]


def test_lengths_are_those_of_the_packs():
    tokens = tokens_of([[(1, True)] * n for n in (6, 5, 4, 3)])
    packed = Packed(tokens, pack(tokens.offsets.diff(), 10), PAD, flat=False)

    assert_close(packed.lengths(), torch.tensor([10, 8]))
