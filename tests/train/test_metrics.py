"""Oracle: the rows that were written, by hand or by json."""

import json

import pytest

from bigpeft.recipe import load_recipe
from bigpeft.train.metrics import MetricsFile, read_rows
from bigpeft.train.progress import total_steps
from bigpeft.train.saving import Position
from tests.train.runs import DEBUG


def written(path, steps, tail=""):
    path.write_text("".join(json.dumps({"step": s, "loss": 1 / s}) + "\n" for s in steps) + tail)
    return MetricsFile(path)


def test_rows_come_back_in_the_order_in_which_they_were_added(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)

    for step in (1, 2, 3):
        metrics.add({"step": step, "loss": step / 3})

    assert read_rows(path) == [{"step": s, "loss": s / 3} for s in (1, 2, 3)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_becomes_null_as_json_has_no_word_for_it(number, tmp_path):
    path = tmp_path / "metrics.jsonl"

    MetricsFile(path).add({"step": 1, "grad_norm": number, "tokens": 5})

    assert path.read_text() == '{"step": 1, "grad_norm": null, "tokens": 5}\n'


def test_a_resumed_run_drops_the_rows_that_it_will_write_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = written(path, [1, 2, 3, 4, 5])

    metrics.cut(3)
    metrics.add({"step": 4, "loss": 0.0})

    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4]
    assert read_rows(path)[-1]["loss"] == 0.0


@pytest.mark.parametrize("tail", ['{"step": 4, "lo', "{", '{"step": 4, "loss": 0.1', "\0\0\0\0"])
def test_a_half_written_last_line_is_dropped_and_the_next_row_stands_on_its_own(tail, tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = written(path, [1, 2, 3], tail)

    metrics.cut(10)
    metrics.add({"step": 4})

    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_cutting_at_zero_leaves_an_empty_record(tmp_path):
    path = tmp_path / "metrics.jsonl"

    written(path, [1, 2]).cut(0)

    assert path.read_text() == ""


def test_there_may_be_nothing_to_cut(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl").cut(3)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("epochs", "rows", "steps"),
    [(1, 64, 16), (0.5, 64, 8), (2.5, 10, 7), (0.01, 4, 1), (3, 1, 1), (1.1, 40, 11)],
)
def test_epochs_are_rounded_up_to_whole_steps(epochs, rows, steps):
    recipe = load_recipe(DEBUG, [f"train.epochs={epochs}", "batch.global_size=4"])

    assert total_steps(recipe, rows, Position()) == steps


def test_steps_do_not_depend_on_the_rows():
    assert total_steps(load_recipe(DEBUG, ["train.steps=5"]), 1, Position()) == 5
