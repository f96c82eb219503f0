"""Triplets close by rule. Oracle: the rules, restated over all seats at once."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.autograd import grad
from torch.testing import assert_close

from bigpeft.errors import RecipeError
from bigpeft.methods import Mpc, Step, linear_methods
from bigpeft.methods.extension.adalora import AdaLoRA, budget, choose
from bigpeft.methods.triplets import Pace
from tests.oracles.dense import build, nudge, packed
from tests.oracles.step import Alone

SHAPES = [(24, 16), (16, 24), (8, 8), (21, 34), (9, 70)]
shares = st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).filter(lambda s: sum(s) < 1)


def seats_of(name, shapes=SHAPES, **options):
    seats = []
    for number, shape in enumerate(shapes):
        linear, weight = packed(shape, name=f"layer.{number}")
        seats.append(nudge(build(name, linear, weight, **options)))
    return seats


def moved(seats, number):
    """New numbers and new gradients, as some optimizer may leave them."""
    torch.manual_seed(number)
    for seat in seats:
        for parameter in seat.parameters():
            parameter.data.normal_()
            parameter.grad = torch.randn_like(parameter)


def steps(seats, numbers, total, tensors):
    """The steps of a run as the methods see them; yields after each."""
    method = type(seats[0])
    for number in numbers:
        step = Step(number, total, tensors)
        moved(seats, number)
        method.before_step(seats, step)
        method.after_step(seats, step)
        yield number


@given(
    ranks=st.lists(st.tuples(st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=9),
    shares=shares,
    total=st.integers(1, 300),
)
def test_the_budget_falls_from_all_ranks_to_all_target_ranks(ranks, shares, total):
    seats = [SimpleNamespace(rank=max(r), target_rank=min(r)) for r in ranks]
    pace = Pace(1, *shares)

    kept = [budget(seats, pace.progress(number, total)) for number in range(total + 1)]

    begin, settled = pace.begin(total), pace.settled(total)
    assert 0 <= begin < settled <= total
    assert set(kept[: begin + 1]) == {sum(max(r) for r in ranks)}
    assert set(kept[settled:]) == {sum(min(r) for r in ranks)}
    assert kept == sorted(kept, reverse=True)


@given(
    interval=st.integers(1, 20),
    shares=shares,
    total=st.integers(1, 200),
    number=st.integers(1, 200),
)
def test_changes_come_at_intervals_between_the_first_and_the_last_part(
    interval, shares, total, number
):
    pace = Pace(interval, *shares)

    between = int(shares[0] * total) < number < total - int(shares[1] * total)

    assert pace.due(number, total) == (between and number % interval == 0)


@given(data=st.data(), ties=st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_best_triplets_of_all_seats_stay_open_and_exactly_as_many_as_the_budget(data, ties):
    seats = seats_of("adalora", SHAPES[:3], rank=4)
    kept = data.draw(st.integers(0, 12))
    torch.manual_seed(kept)
    for seat in seats:
        for factor in "ABE":
            averages = seat.get_buffer(f"averages_{factor}")
            averages.copy_(torch.ones_like(averages) if ties else torch.rand_like(averages))

    choose(seats, kept)

    scores = torch.cat([seat.scores() for seat in seats])
    mask = torch.cat([seat.mask for seat in seats]) > 0
    assert mask.sum() == kept
    if 0 < kept < 12:
        assert scores[mask].min() >= scores[~mask].max()


def test_closed_triplets_may_come_back_until_the_last_part_fixes_the_choice():
    seats = seats_of("adalora", rank=4, target_rank=1, interval=2, warmup_share=0.1)
    tensors, masks, open_ = Alone(), {}, {}

    for number in steps(seats, range(1, 21), 20, tensors):
        masks[number] = torch.cat([seat.mask for seat in seats]) > 0
        open_[number] = torch.cat([seat.lora_E for seat in seats]) != 0

    assert masks[3].all()
    assert [int(masks[number].sum()) for number in (4, 8, 14)] == [13, 6, 5]
    assert (masks[14] & ~masks[10]).any() or (masks[12] & ~masks[8]).any()
    for number in range(1, 21):
        choosing = number in (4, 6, 8, 10, 12)
        if choosing or number >= 14:
            assert torch.equal(open_[number], masks[number])
        else:
            assert open_[number].all()
        if number > 14:
            assert torch.equal(masks[number], masks[14])


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("rank", [4, 1])
def test_short_runs_and_targets_at_the_rank_need_no_special_care(total, rank):
    seats = seats_of("adalora", rank=rank, target_rank=rank if total % 2 else 1, interval=1)

    for _ in steps(seats, range(1, total + 1), total, Alone()):
        pass

    assert sum(int(seat.mask.sum()) for seat in seats) == sum(s.target_rank for s in seats)


def test_an_overflow_leaves_the_averages_finite():
    seats = seats_of("adalora", rank=4)
    moved(seats, 1)
    seats[0].lora_A.grad[0, 0] = math.inf
    seats[0].lora_E.grad[0] = math.nan

    AdaLoRA.before_step(seats, Step(1, 10, Alone()))

    for factor in "ABE":
        assert seats[0].get_buffer(f"averages_{factor}").isfinite().all()


@pytest.mark.parametrize("name", ["adalora", "flexlora"])
def test_closed_triplets_are_left_out_of_the_penalty(name):
    (seat,) = seats_of(name, SHAPES[:1], rank=4, orth_weight=0.3)
    seat.mask.fill_(0)
    seat.mask[:2] = 1

    penalty = seat.penalty()
    of_a, of_b = grad(penalty, [seat.lora_A, seat.lora_B])

    a, b, eye = seat.lora_A[:2], seat.lora_B[:, :2], torch.eye(2)
    lengths = torch.linalg.matrix_norm(torch.stack([a @ a.T - eye, b.T @ b - eye]))
    assert_close(penalty, 0.3 * lengths.mean())
    assert of_a[:2].any()
    assert not of_a[2:].any()
    assert not of_b[:, 2:].any()


def test_a_seat_without_open_triplets_has_no_penalty_and_no_slope():
    (seat,) = seats_of("adalora", SHAPES[:1], rank=4)
    seat.mask.fill_(0)

    penalty = seat.penalty()

    assert penalty < 1e-9
    assert all(not g.any() for g in grad(penalty, [seat.lora_A, seat.lora_B]))


@pytest.mark.parametrize("name", ["adalora", "flexlora"])
def test_a_section_mpc_takes_the_place_of_the_penalty(name):
    (seat,) = seats_of(name, SHAPES[:1], rank=4)
    (free,) = seats_of(name, SHAPES[:1], rank=4, orth_weight=0)
    assert seat.penalised
    assert not free.penalised
    assert free.penalty() is None

    wanted = Mpc(pattern="d", weight=0.2)
    seat.constrain(wanted)

    used = seat.mask > 0
    assert_close(seat.penalty(), wanted.penalty(seat.lora_A[used], seat.lora_B[:, used]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adalora", {"interval": 3}),
        ("flexlora", {"final_share": 0.1}),
        ("flexlora", {"exchanges": 1}),
    ],
)
def test_linears_that_change_together_must_agree_on_when(name, options):
    seats = seats_of(name, SHAPES[:2], rank=4) + seats_of(name, SHAPES[2:], rank=4, **options)

    with pytest.raises(RecipeError, match=next(iter(options))):
        type(seats[0]).after_step(seats, Step(1, 10, Alone()))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("adalora", {"rank": 4, "target_rank": 5}, "target_rank 5 is above rank 4"),
        ("adalora", {"warmup_share": 0.5, "final_share": 0.5}, "leave no steps"),
        ("flexlora", {"rank": 4, "max_rank": 3}, "max_rank 3 is below rank 4"),
    ],
)
def test_options_that_contradict_each_other_are_refused(name, options, reason):
    with pytest.raises(ValidationError, match=reason):
        linear_methods()[name].Options(**options)


def test_a_default_target_above_the_rank_closes_nothing():
    (seat,) = seats_of("adalora", SHAPES[:1], rank=4)

    assert seat.target_rank == 4


@pytest.mark.parametrize("name", ["adalora", "flexlora"])
def test_what_triplets_weigh_is_never_decayed(name):
    (seat,) = seats_of(name, SHAPES[:1], rank=4)

    decayed = {key for key, _ in seat.named_parameters() if seat.role(key).decay}

    assert decayed == {"lora_A", "lora_B"}
