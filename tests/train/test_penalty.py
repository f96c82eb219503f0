"""The penalty of a constraint counts once per step. Oracle: one rank, one micro-batch, stage 0."""

import pytest
import torch

from bigpeft.train.metrics import read_rows
from tests.train.runs import column, final_state, run

BASE = [
    "model.layers=2",
    "train.steps=4",
    "batch.global_size=8",
    "optimizer.learning_rate=2e-2",
    "mpc={pattern: o, weight: 0.5}",
    "method={name: trilora, rank: 4}",
]
ORACLE = ["sharding.fragment=zero0", "batch.micro_size=8"]
WORLDS = {
    "accumulation": (1, ["sharding.fragment=zero0", "batch.micro_size=1"]),
    "two ranks, ZeRO-3": (2, ["batch.micro_size=2"]),
    "two ranks, ZeRO-2": (2, ["sharding.fragment=zero2", "batch.micro_size=4"]),
    "activation checkpointing": (
        2,
        ["batch.micro_size=2", "train.activation_checkpointing=true"],
    ),
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    state = final_state(1, folder, *BASE, *ORACLE)
    return folder, state


@pytest.mark.parametrize("world", WORLDS)
def test_the_penalty_is_exact_in_every_world(world, oracle, tmp_path):
    size, overrides = WORLDS[world]
    folder, expected = oracle

    state = final_state(size, tmp_path, *BASE, *overrides)

    for key in ("loss", "penalty", "grad_norm"):
        assert column(tmp_path, key) == pytest.approx(column(folder, key), rel=1e-5, abs=1e-6)
    for name, value in expected.items():
        if name.endswith("exp_avg"):
            torch.testing.assert_close(
                torch.from_numpy(state[name]), torch.from_numpy(value), rtol=1e-3, atol=1e-5
            )


def test_the_penalty_falls_and_is_no_part_of_the_reported_loss(oracle, tmp_path):
    folder, _ = oracle
    without = run(1, tmp_path, *[b for b in BASE if not b.startswith("mpc")], *ORACLE)

    penalties = column(folder, "penalty")

    assert penalties[-1] < penalties[0]
    assert column(folder, "loss")[0] == column(without, "loss")[0]
    assert all("penalty" not in row for row in read_rows(without / "metrics.jsonl"))
