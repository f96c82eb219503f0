"""Metrics of made-up numbers. Oracles: the equation of Wilson's bounds, and sums by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bigpeft.metrics import Measured, Options, lower_is_better, metrics
from bigpeft.metrics.figure import ratio, share


def measured(**more):
    numbers = {
        "loss": torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64),
        "targets": torch.tensor([4.0, 1.0, 5.0], dtype=torch.float64),
        "hits": torch.tensor([3.0, 0.0, 5.0], dtype=torch.float64),
    }
    return Measured(**numbers, **more)


@given(st.integers(1, 400), st.data())
def test_bounds_of_a_share_are_where_it_is_two_deviations_off(rows, data):
    right = data.draw(st.integers(0, rows))
    figure = share(torch.arange(rows) < right)

    assert figure.value == pytest.approx(right / rows)
    for bound in (figure.low, figure.high):
        if 1e-9 < bound < 1 - 1e-9:
            away = abs(figure.value - bound) / math.sqrt(bound * (1 - bound) / rows)
            assert away == pytest.approx(1.959964, rel=1e-5)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_a_loss_is_a_mean_over_tokens_and_its_interval_is_over_rows():
    figure = metrics()["loss"].of(measured())

    assert figure.value == pytest.approx(6 / 10)
    residuals = [2 - 0.6 * 4, 1 - 0.6, 3 - 0.6 * 5]
    half = 1.959964 * math.sqrt(sum(r * r for r in residuals) * 3 / 2) / 10
    assert figure.high - figure.value == pytest.approx(half, rel=1e-5)
    assert figure.rows == 3
    assert metrics()["perplexity"].of(measured()).value == pytest.approx(math.exp(0.6))
    assert metrics()["token_accuracy"].of(measured()).value == pytest.approx(0.8)


def test_bounds_of_a_loss_hold_the_true_mean_about_as_often_as_they_say():
    torch.manual_seed(0)
    inside = 0
    for _ in range(400):
        counts = torch.randint(1, 9, (60,)).double()
        figure = ratio(counts * (2 + 0.5 * torch.randn(60)), counts)
        inside += figure.low <= 2 <= figure.high
    assert 0.91 < inside / 400 < 0.98


def test_options_are_judged_whole_or_by_token():
    likelihood = torch.tensor([[-2.0, -3.0], [-1.0, -9.0], [-5.0, -math.inf]]).double()
    tokens = torch.tensor([[1.0, 4.0], [1.0, 1.0], [2.0, 1.0]]).double()
    options = Options(likelihood, tokens, torch.tensor([1, 0, 0]))

    whole = metrics()["choice_accuracy"].of(measured(options=options))
    by_token = metrics()["choice_accuracy_norm"].of(measured(options=options))

    assert whole.value == pytest.approx(2 / 3)
    assert by_token.value == 1


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("eval_loss", True),
        ("eval_maths_perplexity", True),
        ("eval_accuracy", False),
        ("eval_loss_exact_match", False),
        ("eval_a_choice_accuracy_norm", False),
    ],
)
def test_which_way_is_better_is_told_from_the_name(name, lower):
    assert lower_is_better(name) == lower
