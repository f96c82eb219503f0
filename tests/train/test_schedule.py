"""Oracle: closed forms of the schedules."""

import math

import pytest

from bigpeft.recipe import Optimizer
from bigpeft.train.schedule import Schedule


def test_warm_up_rises_linearly_to_the_peak():
    schedule = Schedule("constant", steps=100, warmup=4)

    assert [schedule.factor(n) for n in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_linear_and_cosine_fall_from_one_to_the_final_ratio(final):
    line = Schedule("linear", 100, 0, final_ratio=final)
    curve = Schedule("cosine", 100, 0, final_ratio=final)

    for n in range(101):
        assert line.factor(n) == pytest.approx(1 - (1 - final) * n / 100)
        wave = (1 + math.cos(math.pi * n / 100)) / 2
        assert curve.factor(n) == pytest.approx(final + (1 - final) * wave)


def test_wsd_is_flat_and_falls_in_the_last_part():
    schedule = Schedule("wsd", 100, 10, decay_ratio=0.2)

    assert {schedule.factor(n) for n in range(10, 80)} == {1.0}
    assert schedule.factor(90) == pytest.approx(0.5)
    assert schedule.factor(100) == 0


def test_warm_up_steps_win_over_the_ratio():
    assert Schedule.of(Optimizer(warmup_ratio=0.1), 50).warmup == 5
    assert Schedule.of(Optimizer(warmup_ratio=0.1, warmup_steps=0), 50).warmup == 0
