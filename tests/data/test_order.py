"""Order and sharing. Oracle: what a permutation and a partition are."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bigpeft.data import sample_indices, share

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**31)


@given(sizes, seeds, st.integers(0, 1000), st.booleans())
def test_every_epoch_holds_every_row_once(rows, seed, epoch, shuffle):
    order = sample_indices(rows, seed, shuffle, epoch * rows, rows)

    assert sorted(order) == list(range(rows))


@given(sizes, seeds, st.integers(0, 200), st.lists(st.integers(0, 30), max_size=6), st.booleans())
def test_the_order_does_not_depend_on_how_it_is_cut(rows, seed, start, cuts, shuffle):
    whole = sample_indices(rows, seed, shuffle, start, sum(cuts))

    parts = []
    for cut in cuts:
        parts += sample_indices(rows, seed, shuffle, start + len(parts), cut)

    assert parts == whole


@given(st.lists(st.integers(1, 99), min_size=1, max_size=80), seeds, st.integers(0, 50))
def test_rows_grouped_by_length_are_in_every_epoch_once_however_it_is_cut(lengths, seed, cut):
    rows, of = len(lengths), torch.tensor(lengths)

    whole = sample_indices(rows, seed, True, 0, 2 * rows, of)

    assert sorted(whole[:rows]) == sorted(whole[rows:]) == list(range(rows))
    assert whole[cut:] == sample_indices(rows, seed, True, cut, max(0, 2 * rows - cut), of)


def test_rows_grouped_by_length_have_like_ones_beside_them_in_another_order_each_epoch():
    torch.manual_seed(0)
    lengths = torch.randint(1, 1000, (4096,))

    grouped, plain = (
        torch.tensor(sample_indices(4096, 1, True, 0, 4096, of)) for of in (lengths, None)
    )

    def padding(order: torch.Tensor) -> int:
        batches = lengths[order].view(-1, 8)
        return int((batches.max(1, keepdim=True).values - batches).sum())

    assert padding(grouped) < 0.03 * padding(plain)
    assert grouped.tolist() != sample_indices(4096, 1, True, 4096, 4096, lengths)
    longest_first = lengths[grouped].view(-1, 32).float().mean(1)
    assert longest_first.diff().sign().unique().tolist() == [-1, 1]


def test_without_shuffling_rows_come_in_file_order():
    assert sample_indices(3, 7, False, 1, 6) == [1, 2, 0, 1, 2, 0]


def test_epochs_and_seeds_differ():
    one = sample_indices(50, 0, True, 0, 50)

    assert one != sample_indices(50, 0, True, 50, 50)
    assert one != sample_indices(50, 1, True, 0, 50)
    assert one != list(range(50))


def test_the_order_is_the_same_on_every_machine_and_day():
    assert sample_indices(8, 3, True, 0, 8) == [6, 2, 0, 5, 4, 1, 3, 7]


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 5))
def test_ranks_share_all_rows_each_once_in_equally_many_micro_batches(count, world, micro):
    indices = list(range(100, 100 + count))

    shares = [share(indices, rank, world, micro) for rank in range(world)]

    assert len({len(batches) for batches in shares}) == 1
    in_order = [row for batches in zip(*shares, strict=True) for batch in batches for row in batch]
    assert in_order == indices
    assert all(len(batch) <= micro for batches in shares for batch in batches)
    if count % (world * micro) == 0:
        assert all(len(batch) == micro for batches in shares for batch in batches)
