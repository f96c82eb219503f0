"""Mixes and splits. Oracles: counting, and what a partition is."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bigpeft.data import Part, mixed
from tests.data.test_collate import row, tokens_of


def test_sources_one_after_another():
    assert mixed([2, 3], [1, 9], "concatenate", 0).tolist() == [0, 1, 2, 3, 4]


def test_until_the_first_is_used_up_every_row_comes_once_and_in_turn():
    order = mixed([40, 4000], [1, 3], "first_exhausted", 5)

    one, other = order[order < 40], order[order >= 40]
    assert one.tolist() == list(range(40))
    assert other.tolist() == list(range(40, 40 + len(other)))
    assert 60 < len(other) < 220  # three to one, in forty draws


def test_until_all_are_used_up_no_row_is_lost_and_the_short_one_begins_again():
    order = mixed([10, 300], [1, 1], "all_exhausted", 5)

    assert set(order.tolist()) == set(range(310))
    short = order[order < 10]
    assert len(short) > 200
    assert short.tolist() == [number % 10 for number in range(len(short))]


def test_the_order_is_a_function_of_the_seed():
    orders = [mixed([50, 50], [1, 1], "first_exhausted", seed).tolist() for seed in (1, 1, 2)]

    assert orders[0] == orders[1] != orders[2]


@given(st.lists(row, min_size=1, max_size=6), st.lists(st.integers(0, 99), min_size=1, max_size=9))
def test_selected_rows_are_the_rows(rows, numbers):
    tokens = tokens_of(rows)
    numbers = torch.tensor([number % len(rows) for number in numbers])

    found = tokens.select(numbers)

    assert len(found) == len(numbers)
    for place, number in enumerate(numbers.tolist()):
        for one, other in zip(found.row(place), tokens.row(number), strict=True):
            assert one.equal(other)


shares = st.floats(0.01, 0.9).map(lambda share: round(share, 3))


@given(shares, st.integers(0, 99), st.integers(1, 500))
def test_every_row_is_held_out_or_trained_on_and_never_both(share, seed, rows):
    held, trained = (Part(share, seed, kept) for kept in (True, False))

    assert all(held.has(number) != trained.has(number) for number in range(rows))
    count = sum(held.has(number) for number in range(rows))
    assert abs(count - share * rows) <= 2


def test_another_seed_holds_out_other_rows():
    chosen = [[n for n in range(1000) if Part(0.05, seed, True).has(n)] for seed in (1, 2)]

    assert len(chosen[0]) == len(chosen[1]) == 50
    assert chosen[0] != chosen[1]


def test_the_choice_is_the_same_on_every_machine_and_day():
    assert [n for n in range(60) if Part(0.1, 3, True).has(n)] == [7, 14, 21, 33, 48, 55]
