"""Numbers of a report. Oracles: the definition of an interval, and the whole curve."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigpeft.report.intervals import wilson
from bigpeft.report.series import Series, series, smoothed, thinned
from bigpeft.report.words import duration, number, size, value

FINITE = st.floats(-1e6, 1e6)


@given(st.integers(1, 5000).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_the_bounds_of_an_interval_are_shares_that_the_count_is_just_not_unlikely_for(counts):
    right, rows = counts

    for bound in wilson(right / rows, rows):
        distance = abs(right / rows - bound)
        assert distance == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / rows), abs=1e-5)


@given(st.lists(FINITE, min_size=1, max_size=400))
def test_a_thinned_curve_keeps_its_ends_and_its_extremes(values):
    curve = Series(list(range(len(values))), values)

    thin = thinned(curve, most=40)

    assert len(thin) <= 44
    assert set(zip(thin.steps, thin.values, strict=True)) <= set(enumerate(values))
    assert thin.steps == sorted(thin.steps)
    assert (min(thin.values), max(thin.values)) == (min(values), max(values))
    assert (thin.steps[0], thin.steps[-1]) == (0, len(values) - 1)


@given(FINITE, st.integers(1, 300))
def test_a_flat_curve_is_its_own_running_mean(level, steps):
    curve = Series(list(range(steps)), [level] * steps)

    assert smoothed(curve).values == pytest.approx(curve.values)


def test_rows_without_a_finite_number_leave_no_hole():
    rows = [{"step": 1, "x": 1}, {"step": 2, "x": None}, {"step": 3}, {"step": 4, "x": True}]
    rows += [{"step": 5, "x": float("nan")}, {"step": 6, "x": "7"}, {"step": 7, "x": 2.5}]

    assert series(rows, "x") == Series([1, 7], [1.0, 2.5])


def test_numbers_read_as_people_write_them():
    assert [number(n) for n in (None, 1234567, 0.00012345, 1234.56, 2.5, float("nan"))] == [
        "–", "1,234,567", "0.0001234", "1,235", "2.5", "nan",
    ]  # fmt: skip
    assert [size(n) for n in (None, 12, 2048, 3 * 2**30, 5 * 2**40)] == [
        "–", "12 B", "2.0 KiB", "3.0 GiB", "5.0 TiB",
    ]  # fmt: skip
    assert [duration(n) for n in (None, 4.25, 3723)] == ["–", "4.2 s", "1:02:03"]
    assert value({"a": [True, None, 1e-4, "x"]}) == "{a: [true, null, 0.0001, x]}"
