"""Oracle: the run that was never interrupted.

Losses, gradient norms, masters and moments of a run that stopped in the middle of an epoch and
went on are compared with it: bit for bit on the same world, as fp32 allows on another.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.train.runs import column, final_state, run

OVERRIDES = [
    "model.layers=2",
    "batch={global_size: 8, micro_size: 2}",
    "data.limit=12",  # an epoch is a step and a half: the stop is in the middle of the second
    "train.steps=4",
    "optimizer.schedule=cosine",
    "optimizer.weight_decay=0.1",
    "eval=null",
]
KINDS = {
    "stage 0": ["sharding.fragment=zero0"],
    "stage 2": ["sharding.fragment=zero2"],
    "stage 3": [],
    "stage 3, recomputing": ["train.activation_checkpointing=true"],
    "stage 3, optimizer on the host": ["sharding.fragment=zero3_cpu"],
    "stage 3, frozen weights on the host": ["sharding.fragment=zero3_cpu_weights"],
    "stage 0 in bf16": ["sharding.fragment=zero0", "train.precision=bf16"],
    "stage 2 in bf16": ["sharding.fragment=zero2", "train.precision=bf16"],
    "stage 3 in bf16": ["train.precision=bf16"],
    "groups with their own learning rates, stage 2": [
        "method.name=lora_plus",
        "sharding.fragment=zero2",
    ],
    "groups with their own learning rates, stage 3": ["method.name=lora_plus"],
    "a dense module, stage 2": ["method.train_modules=[norm]", "sharding.fragment=zero2"],
    "a dense module, stage 3": ["method.train_modules=[norm]"],
}


def assert_same(folder: Path, other: Path) -> None:
    for key in ("step", "loss", "grad_norm", "learning_rate", "tokens"):
        assert column(folder, key) == column(other, key)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_is_the_uninterrupted_one_bit_for_bit(kind, tmp_path):
    more = [*OVERRIDES, "method.dropout=0.1", *KINDS[kind]]
    expected = final_state(2, tmp_path / "whole", *more)

    run(2, tmp_path / "cut", *more, "train.stop_after=2")
    stopped_at = column(tmp_path / "cut", "step")
    state = final_state(2, tmp_path / "cut", *more, "checkpoint.resume=auto")

    assert stopped_at == [1, 2]
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


def test_dropout_is_at_work_in_these_runs(tmp_path):
    """Or the random state would not matter."""
    run(2, tmp_path / "with", *OVERRIDES, "method.dropout=0.1")
    run(2, tmp_path / "without", *OVERRIDES)

    assert column(tmp_path / "with", "loss")[1:] != column(tmp_path / "without", "loss")[1:]


def test_a_dense_module_moves_and_is_restored(tmp_path):
    more = [*OVERRIDES, "method.train_modules=[norm]"]

    state = final_state(2, tmp_path, *more)

    assert not np.array_equal(state["model.norm.weight.master"], np.ones(128))


@pytest.mark.parametrize(
    "stages", [("zero3", "zero0", "zero3"), ("zero2", "zero3", "zero1")], ids=str
)
def test_a_run_goes_on_with_other_ranks_and_another_stage(stages, tmp_path):
    more = [*OVERRIDES, "train.steps=6", "method.train_modules=[norm]"]
    expected = final_state(1, tmp_path / "whole", *more)

    for size, stage, stop in zip((2, 1), stages, (2, 4), strict=False):
        here = [f"sharding.fragment={stage}", f"train.stop_after={stop}"]
        run(size, tmp_path / "cut", *more, *here, "checkpoint.resume=auto")
    here = [f"sharding.fragment={stages[2]}", "checkpoint.resume=auto"]
    state = final_state(4, tmp_path / "cut", *more, *here)

    # fp32: sums over ranks in another order
    for key in ("loss", "grad_norm"):
        assert_allclose(
            column(tmp_path / "cut", key), column(tmp_path / "whole", key), rtol=0, atol=1e-5
        )
    for name, value in expected.items():
        assert_allclose(state[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_a_finished_run_that_is_started_again_does_nothing_more(tmp_path):
    run(2, tmp_path, *OVERRIDES)
    before = (tmp_path / "metrics.jsonl").read_text()

    run(2, tmp_path, *OVERRIDES, "checkpoint.resume=auto")

    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_longer_run_goes_on_after_the_end_of_a_finished_one(tmp_path):
    run(2, tmp_path, *OVERRIDES)

    run(2, tmp_path, *OVERRIDES, "train.steps=5", "checkpoint.resume=auto")

    assert column(tmp_path, "step") == [1, 2, 3, 4, 5]


def test_the_evaluation_before_the_first_step_is_kept_over_a_resume(tmp_path):
    more = [*OVERRIDES, "eval.path=recipes/data/debug/heldout.jsonl", "eval.limit=4"]
    more.remove("eval=null")
    run(2, tmp_path / "whole", *more)

    run(2, tmp_path / "cut", *more, "train.stop_after=2")
    run(2, tmp_path / "cut", *more, "checkpoint.resume=auto")

    whole, cut = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("whole", "cut"))
    for key in ("eval_loss_before", "eval_loss_after", "loss_first", "loss_last", "steps"):
        assert cut[key] == whole[key]
