"""Triplets close and open alike in every world. Oracle: one rank, one micro-batch, stage 0."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bigpeft.checkpoint import training_state
from bigpeft.recipe import load_recipe
from bigpeft.train import adapters
from bigpeft.train.engine import gather
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.train.runs import DEBUG, column
from tests.worlds import world

STEPS = [
    "model.layers=2",
    "train.steps=6",
    "batch.global_size=8",
    "optimizer.learning_rate=2e-2",
    "eval=null",
]
METHODS = {
    "adalora": "method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0.4}",
    "flexlora": "method={name: flexlora, rank: 2, interval: 1, warmup_share: 0, final_share: 0.4}",
}
ORACLE = ["sharding.fragment=zero0", "batch.micro_size=8"]
WORLDS = {
    "1 rank, stage 0, accumulation": (1, ["sharding.fragment=zero0", "batch.micro_size=2"]),
    "2 ranks, stage 0": (2, ["sharding.fragment=zero0", "batch.micro_size=4"]),
    "2 ranks, stage 1": (2, ["sharding.fragment=zero1", "batch.micro_size=2"]),
    "2 ranks, stage 2": (2, ["sharding.fragment=zero2", "batch.micro_size=4"]),
    "2 ranks, stage 3": (2, ["batch.micro_size=2"]),
    "2 ranks, stage 3, optimizer on the host": (
        2,
        ["batch.micro_size=2", "sharding.fragment=zero3_cpu"],
    ),
}
TWO_PASSES = "batch.micro_size=2"  # of two ranks
Seats = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def seats_here(folder: Path, overrides: Sequence[str]) -> Seats:
    """One rank's part of a run; mask, master of E and the copy that computes, of every seat."""
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
    finished = train(recipe, read_world(), Terminal(speaks=False))
    state, found = training_state(finished.engine), {}
    for name, seat in finished.plan.seated.items():
        values = seat.get_parameter("lora_E")
        gather([values])
        master = state.read(values, None)
        found[name] = (seat.get_buffer("mask"), master, values.detach().float())
    return {name: tuple(t.cpu().numpy() for t in tensors) for name, tensors in found.items()}


def touched_here(folder: Path, overrides: Sequence[str]) -> list[bool]:
    """As above, with a look at both moments, and zeros written to them, before Adam has any."""
    before_step, zeros = adapters.Adapters.before_step, []

    def touch(self: adapters.Adapters, number: int) -> None:
        for seat in self._seats if number == 1 else []:
            for parameter in seat.parameters():
                for key in ("exp_avg", "exp_avg_sq"):
                    moment = self._tensors.read(parameter, key)
                    zeros.append(not moment.any())
                    self._tensors.write(parameter, key, torch.zeros_like(moment))
        before_step(self, number)

    adapters.Adapters.before_step = touch
    try:
        seats_here(folder, overrides)
    finally:
        adapters.Adapters.before_step = before_step
    return zeros


@pytest.fixture(scope="module", params=METHODS)
def oracle(request, tmp_path_factory):
    folder, method = tmp_path_factory.mktemp("oracle"), METHODS[request.param]
    (seats,) = world(1).call(seats_here, folder, [*STEPS, *ORACLE, method])
    return method, folder, seats


@pytest.mark.parametrize("case", WORLDS)
def test_triplets_close_and_open_alike_in_every_world(case, oracle, tmp_path):
    size, more = WORLDS[case]
    method, folder, expected = oracle

    found = world(size).call(seats_here, tmp_path, [*STEPS, *more, method])

    for key in ("loss", "penalty"):
        assert_close(column(tmp_path, key), column(folder, key), rtol=0.0, atol=1e-5)
    for seats in found:
        for name, (mask, master, live) in seats.items():
            assert np.array_equal(mask, expected[name][0]), name
            assert np.array_equal(master, live)
            assert_close(master, expected[name][1], rtol=1e-3, atol=1e-5)


def test_masks_are_neither_full_nor_the_first_ones(oracle):
    masks = [mask for mask, _, _ in oracle[2].values()]

    assert len({mask.tobytes() for mask in masks}) > 2
    assert 0 < sum(mask.sum() for mask in masks) < sum(mask.size for mask in masks)


@pytest.mark.parametrize("fragment", ["zero0", "zero1", "zero2", "zero3"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_closed_stays_zero_in_masters_of_bf16_runs(method, fragment, tmp_path):
    more = [f"sharding.fragment={fragment}", "train.precision=bf16", TWO_PASSES]

    for seats in world(2).call(seats_here, tmp_path, [*STEPS, *more, METHODS[method]]):
        for mask, master, live in seats.values():
            assert not master[mask == 0].any()
            assert not live[mask == 0].any()
            assert master[mask == 1].all()
            assert_close(master, live, rtol=2**-8, atol=0.0)
        assert any((mask == 0).any() for mask, _, _ in seats.values())


@pytest.mark.parametrize("fragment", ["zero0", "zero2", "zero3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_moments_that_adam_has_not_made_are_zero_and_may_be_written(
    precision, fragment, oracle, tmp_path
):
    more = [f"sharding.fragment={fragment}", f"train.precision={precision}", TWO_PASSES, oracle[0]]
    world(2).call(seats_here, tmp_path / "alone", [*STEPS, *more])

    zeros = world(2).call(touched_here, tmp_path / "touched", [*STEPS, *more])

    assert all(all(found) and found for found in zeros)
    for key in ("loss", "grad_norm"):
        assert column(tmp_path / "touched", key) == column(tmp_path / "alone", key)
