"""Rows that are read while a run goes on. Oracles: the run that was never stopped, and counting."""

import json

import numpy as np
import pytest

from bigpeft.checkpoint.meta import read_meta
from tests.checkpoint.test_resume import assert_same
from tests.train.runs import column, final_state, refusals, run

STREAM = [
    "model.layers=1",
    "data.streaming=true",
    "data.window=11",
    "batch={global_size: 6, micro_size: 1}",
    "method.dropout=0.1",
    "train.steps=8",
    "eval=null",
]


@pytest.mark.parametrize("packing", ["false", "true"])
def test_a_stream_that_was_stopped_goes_on_as_if_it_had_not(packing, tmp_path):
    more = [*STREAM, f"data.packing={packing}", "data.limit=40"]
    expected = final_state(2, tmp_path / "whole", *more)

    run(2, tmp_path / "cut", *more, "train.stop_after=3")
    place = read_meta(tmp_path / "cut/checkpoints/step-000003").stream
    state = final_state(2, tmp_path / "cut", *more, "checkpoint.resume=auto")

    assert place["used"] > 0  # in the middle of a window
    assert_same(tmp_path / "cut", tmp_path / "whole")
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


def test_another_number_of_ranks_sees_the_same_rows(tmp_path):
    more = [option for option in STREAM if "dropout" not in option]
    run(2, tmp_path / "two", *more, "train.stop_after=3")
    run(3, tmp_path / "two", *more, "checkpoint.resume=auto", "batch.micro_size=2")
    run(1, tmp_path / "one", *more, "sharding.fragment=zero0")

    for key in ("tokens", "target_tokens"):
        assert column(tmp_path / "two", key) == column(tmp_path / "one", key)
    assert column(tmp_path / "two", "loss") == pytest.approx(
        column(tmp_path / "one", "loss"), abs=1e-5
    )


def test_an_epoch_of_a_stream_holds_every_row_once(tmp_path):
    """48 rows in windows of 11 are eight steps of six."""
    run(1, tmp_path / "stream", *STREAM, "data.limit=48")
    run(1, tmp_path / "whole", *STREAM, "data.limit=48", "data.streaming=false")

    for key in ("tokens", "target_tokens"):
        streamed, whole = (column(tmp_path / name, key) for name in ("stream", "whole"))
        assert sum(streamed) == sum(whole)
        assert streamed != whole  # in another order


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["train={epochs: 1}"], "train.epochs: is not known of rows that are streamed"),
        (["data.workers=2"], "reads ahead by itself"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(overrides, why, tmp_path):
    ((kind, text),) = refusals(1, tmp_path, *STREAM, *overrides)

    assert kind == "RecipeError"
    assert why in text


def test_a_bad_row_ends_a_stream_with_its_place(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = {"prompt": "a ", "completion": "b"}
    path.write_text("".join(json.dumps(good) + "\n" for _ in range(20)) + "{nonsense\n")

    for kind, text in refusals(2, tmp_path / "run", *STREAM, f"data.path={path}"):
        assert kind == "DataError"
        assert "rows.jsonl line 21: is not JSON" in text
