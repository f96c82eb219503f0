"""Slots move from linear to linear by rule. Oracle: the rules, restated over all seats at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from bigpeft.methods import Step
from bigpeft.methods.extension.flexlora import FlexLoRA, entropy, pairs
from tests.methods.test_budget import SHAPES, moved, seats_of, steps
from tests.oracles.dense import build, packed
from tests.oracles.step import Alone

MOMENTS = ("exp_avg", "exp_avg_sq")


@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9))
def test_entropy_is_finite_and_between_zero_and_one(values):
    found = entropy(torch.tensor(values))

    assert 0 <= found <= 1 + 1e-12
    if len(values) == 1 or not any(values):
        assert found == 0


def test_entropy_is_one_where_all_slots_are_used_alike():
    for slots in (2, 3, 8):
        assert entropy(torch.full((slots,), -0.1)) == pytest.approx(1)
    assert entropy(torch.tensor([1.0, 0.0, 0.0])) == 0


@given(
    seats=st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), st.integers(1, 4), st.integers(0, 3)),
        min_size=1,
        max_size=9,
    ),
    exchanges=st.integers(0, 9),
)
def test_pairs_take_from_the_lowest_and_give_to_the_highest_and_never_both(seats, exchanges):
    entropies = [e for e, _, _ in seats]
    masks = [torch.tensor([True] * opened + [False] * closed) for _, opened, closed in seats]

    found = pairs(entropies, masks, exchanges)

    losers, gainers = [low for low, _ in found], [high for _, high in found]
    assert len({*losers, *gainers}) == 2 * len(found) <= 2 * exchanges
    assert all(masks[seat].sum() > 1 for seat in losers)
    assert all(not masks[seat].all() for seat in gainers)
    assert all(entropies[low] < entropies[high] for low, high in found)
    passed_over = [e for seat, e in enumerate(entropies) if masks[seat].sum() > 1]
    assert [entropies[seat] for seat in losers] == sorted(passed_over)[: len(losers)]


def test_slots_are_exchanged_at_intervals_and_their_number_never_changes():
    seats = seats_of("flexlora", rank=3, interval=3, warmup_share=0.1, exchanges=2)
    tensors, masks = Alone(), {0: torch.cat([seat.mask for seat in seats]) > 0}

    for number in steps(seats, range(1, 21), 20, tensors):
        masks[number] = torch.cat([seat.mask for seat in seats]) > 0
        assert masks[number].sum() == 3 * len(seats)
        assert all(seat.mask.any() for seat in seats)

    changed = [n for n in range(1, 21) if not torch.equal(masks[n], masks[n - 1])]
    assert changed
    assert set(changed) <= {3, 6, 9, 12}


def test_an_exchange_drops_the_weakest_direction_and_opens_a_fresh_one_without_effect():
    seats = seats_of("flexlora", rank=3, interval=1, exchanges=1, warmup_share=0)
    tensors = Alone()
    moved(seats, 1)
    for seat in seats:
        for parameter in seat.parameters():
            for key in MOMENTS:
                tensors.write(parameter, key, torch.ones_like(parameter))
    with torch.no_grad():
        for seat in seats:
            seat.lora_E[:3] = torch.tensor([1.0, 1.1, -0.9])
        seats[1].lora_E[:3] = torch.tensor([9.0, -0.5, 0.1])
        seats[3].lora_E[:3] = 1.0
    before = [seat.merge(torch.zeros(shape)) for seat, shape in zip(seats, SHAPES, strict=True)]
    old = {key: p.detach().clone() for key, p in seats[3].named_parameters()}

    FlexLoRA.after_step(seats, Step(1, 10, tensors))

    loser, gainer = seats[1], seats[3]
    assert loser.mask.tolist() == [1, 1, 0, 0, 0, 0]
    assert loser.lora_E[2] == 0
    assert gainer.mask.tolist() == [1, 1, 1, 1, 0, 0]
    assert_close(gainer.merge(torch.zeros(SHAPES[3])), before[3])
    assert gainer.lora_E[3] == 0
    for parameter, dim in ((gainer.lora_A, 0), (gainer.lora_B, 1)):
        fresh = parameter.select(dim, 3)
        assert 0.01 < fresh.std() < 0.03
    for key, parameter in gainer.named_parameters():
        dim = int(key == "lora_B")
        others = torch.tensor([0, 1, 2, 4, 5])
        assert torch.equal(parameter.index_select(dim, others), old[key].index_select(dim, others))
        for moment in MOMENTS:
            found = tensors.read(parameter, moment)
            assert not found.select(dim, 3).any()
            assert found.index_select(dim, others).all()
    for number in (0, 2, 4):
        assert seats[number].mask.sum() == 3


def test_fresh_vectors_depend_on_the_step_and_the_seat_alone():
    def opened(number, seat):
        (one,) = seats_of("flexlora", SHAPES[:1], rank=3)
        torch.manual_seed(torch.seed() % 1000)
        one.open(Step(number, 10, Alone()), 3, seat)
        return one.lora_A[3].detach()

    with torch.no_grad():
        assert torch.equal(opened(4, 2), opened(4, 2))
        assert not torch.equal(opened(4, 2), opened(5, 2))
        assert not torch.equal(opened(4, 2), opened(4, 3))


def test_linears_that_start_from_zero_exchange_nothing():
    linear, weight = packed((24, 16))
    seats = [build("flexlora", linear, weight, rank=3, interval=1) for _ in range(4)]

    FlexLoRA.after_step(seats, Step(5, 10, Alone()))

    assert all(seat.mask.tolist() == [1, 1, 1, 0, 0, 0] for seat in seats)


def test_a_small_linear_has_fewer_slots():
    (seat,) = seats_of("flexlora", [(24, 10)], rank=8)

    assert len(seat.mask) == 10
    assert seat.mask.sum() == 8
    assert seat.scaling == 2
