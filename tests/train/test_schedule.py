"""Oracle: closed forms written out here, and the schedules of transformers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.optimization import (
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from bigpeft.recipe.sections import Optimizer
from bigpeft.train.schedule import Schedule

KINDS = ["constant", "linear", "cosine", "wsd"]


def factors(schedule: Schedule) -> list[float]:
    return [schedule.factor(step) for step in range(schedule.steps)]


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_in_equal_steps_and_none_of_them_is_zero(kind):
    schedule = Schedule(kind, steps=100, warmup=4)

    assert factors(schedule)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_constant_stays_at_the_peak():
    assert factors(Schedule("constant", steps=9, warmup=0)) == [1.0] * 9


@pytest.mark.parametrize(
    ("kind", "theirs"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_the_fall_after_warm_up_is_that_of_transformers(kind, theirs):
    adam = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = theirs(adam, num_warmup_steps=5, num_training_steps=40)
    expected = []
    for _ in range(40):
        expected.append(reference.get_last_lr()[0])
        adam.step()
        reference.step()

    # ours starts above zero, so only what comes after warm-up is the same
    assert factors(Schedule(kind, steps=40, warmup=5))[5:] == pytest.approx(expected[5:])


def test_wsd_is_flat_and_falls_in_a_line_over_the_last_share():
    schedule = Schedule("wsd", steps=20, warmup=2, decay_ratio=0.25)

    assert factors(schedule)[2:16] == [1.0] * 14
    assert factors(schedule)[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_the_end_of_the_fall_is_the_final_ratio(kind):
    schedule = Schedule(kind, steps=30, warmup=3, final_ratio=0.1)

    assert schedule.factor(30) == pytest.approx(0.1)
    assert schedule.factor(1000) == pytest.approx(0.1)


def test_half_way_down_a_cosine_is_the_mean_of_peak_and_end():
    schedule = Schedule("cosine", steps=50, warmup=10, final_ratio=0.2)

    assert schedule.factor(30) == pytest.approx(0.6)
    assert schedule.factor(20) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


@given(
    kind=st.sampled_from(KINDS),
    steps=st.integers(1, 60),
    warmup=st.integers(0, 80),
    decay=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_a_factor_is_positive_until_the_end_and_falls_only_after_warm_up(
    kind, steps, warmup, decay, final
):
    schedule = Schedule(kind, steps, warmup, decay, final)

    course = factors(schedule)

    assert all(0 < factor <= 1 for factor in course)
    assert course[:warmup] == sorted(course[:warmup])
    assert course[warmup:] == sorted(course[warmup:], reverse=True)


def test_warm_up_by_steps_wins_over_the_ratio():
    wanted = Optimizer(warmup_steps=7, warmup_ratio=0.5)

    assert Schedule.of(wanted, 100).warmup == 7
    assert Schedule.of(Optimizer(warmup_ratio=0.05), 100).warmup == 5
    assert Schedule.of(Optimizer(warmup_steps=0, warmup_ratio=0.5), 100).warmup == 0
