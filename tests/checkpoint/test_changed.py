"""A run that goes on otherwise than it began. Oracle: losses of a model that stands still."""

from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from bigpeft.train.metrics import read_rows
from tests.train.runs import column, refusals, run

ROWS = 12
OVERRIDES = [
    f"data.limit={ROWS}",
    "train={epochs: 1, precision: fp32}",
    "optimizer={learning_rate: 1.0e-12, schedule: constant, warmup_steps: 0}",
    "eval=null",
]


def total_loss(folder: Path) -> tuple[float, int]:
    """Of all target tokens that a run has seen, and how many they were."""
    rows = read_rows(folder / "metrics.jsonl")
    return sum(row["loss"] * row["target_tokens"] for row in rows), sum(
        row["target_tokens"] for row in rows
    )


def test_another_batch_size_goes_on_with_the_rows_that_were_not_seen(tmp_path):
    whole = run(2, tmp_path / "whole", *OVERRIDES)
    cut = run(2, tmp_path / "cut", *OVERRIDES, "train.stop_after=1")

    smaller = ["batch.global_size=2", "checkpoint.changed=[batch.global_size]"]
    run(2, cut, *OVERRIDES, *smaller, "train.stop_after=2", "checkpoint.resume=auto")
    run(1, cut, *OVERRIDES, "batch.global_size=2", "checkpoint.resume=auto")

    assert column(whole, "step") == [1, 2, 3]
    assert column(cut, "step") == [1, 2, 3, 4, 5]  # 4 rows, then 4 steps of 2
    assert total_loss(cut)[1] == total_loss(whole)[1]
    assert_allclose(total_loss(cut)[0], total_loss(whole)[0], rtol=1e-6)


def test_other_data_go_on_at_the_same_row(tmp_path):
    other = tmp_path / "other.jsonl"
    lines = Path("recipes/data/debug/train.jsonl").read_text().splitlines()
    other.write_text("\n".join(reversed(lines)) + "\n")
    data = f"data={{path: {other}, max_length: 128, limit: {ROWS}}}"
    whole = run(2, tmp_path / "whole", *OVERRIDES, data)
    cut = run(2, tmp_path / "cut", *OVERRIDES, "train.stop_after=1")

    run(2, cut, *OVERRIDES, data, "checkpoint={resume: auto, changed: [data]}")

    assert_allclose(column(cut, "loss")[1:], column(whole, "loss")[1:], rtol=1e-6)
    assert column(cut, "loss")[0] != column(whole, "loss")[0]


def test_another_learning_rate_goes_on_when_it_is_named(tmp_path):
    cut = run(2, tmp_path / "cut", *OVERRIDES, "train.stop_after=1")

    faster = ["optimizer.learning_rate=1e-3", "checkpoint={resume: auto, changed: [optimizer]}"]
    run(2, cut, *OVERRIDES, *faster)

    assert column(cut, "learning_rate") == [1e-12, 1e-3, 1e-3]


@pytest.mark.parametrize("key", ["batch.global_size=2", "data.limit=8"])
def test_the_refusal_says_how_to_name_a_change(key, tmp_path):
    cut = run(2, tmp_path / "cut", *OVERRIDES, "train.stop_after=1")
    name = "data" if key.startswith("data") else "batch.global_size"

    for kind, text in refusals(2, cut, *OVERRIDES, key, "checkpoint.resume=auto"):
        assert kind == "CheckpointError"
        assert f"add checkpoint.changed=[{name}]" in text
    other = "optimizer" if name == "data" else "data"
    allowed = f"checkpoint={{resume: auto, changed: [{other}]}}"
    assert [k for k, _ in refusals(2, cut, *OVERRIDES, key, allowed)] == ["CheckpointError"] * 2
