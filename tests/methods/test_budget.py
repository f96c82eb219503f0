"""Triplets close and open by rule. Oracle: the rules, restated over all seats at once."""

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
from bigpeft.methods.extension.flexlora import FlexLoRA, entropy, pairs
from bigpeft.methods.triplets import Pace
from tests.oracles.dense import build, nudge, packed
from tests.oracles.step import Alone

SHAPES = [(24, 16), (16, 24), (8, 8), (21, 34), (9, 70)]
MOMENTS = ("exp_avg", "exp_avg_sq")
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


def test_a_small_linear_has_fewer_slots():
    (seat,) = seats_of("flexlora", [(24, 10)], rank=8)

    assert len(seat.mask) == 10
    assert seat.mask.sum() == 8
    assert seat.scaling == 2


@pytest.mark.parametrize("name", ["adalora", "flexlora"])
def test_what_triplets_weigh_is_never_decayed(name):
    (seat,) = seats_of(name, SHAPES[:1], rank=4)

    decayed = {key for key, _ in seat.named_parameters() if seat.role(key).decay}

    assert decayed == {"lora_A", "lora_B"}
