"""Every method trains alike in two worlds: two ranks that share an NF4 backbone under ZeRO-3, and
one rank with stage 0 that takes every batch in one pass, which is the oracle.

Every step sees all eight rows, so the losses of different steps are of one objective, and what the
last is below the first was learnt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from bigpeft.checkpoint import training_state
from bigpeft.methods import methods
from bigpeft.placement import evolving
from bigpeft.recipe import load_recipe
from bigpeft.train.engine import gather
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.train.runs import DEBUG, column, run
from tests.worlds import world

STEPS, ROWS = 5, 8
BASE = [
    "model.layers=2",
    "eval=null",
    f"data.limit={ROWS}",
    f"batch={{global_size: {ROWS}, micro_size: 2}}",
    f"train.steps={STEPS}",
    # An epsilon above the roundings of gradients: Adam makes whole steps of what is below.
    "optimizer={learning_rate: 5e-3, epsilon: 1e-6, schedule: constant, warmup_steps: 0}",
]
# What a method does at certain steps happens within these five.
OPTIONS = {
    "adalora": "rank: 4, target_rank: 2, interval: 1, warmup_share: 0, final_share: 0.2",
    "flexlora": "rank: 2, interval: 2, warmup_share: 0, final_share: 0.2",
    "lora_dash": "rank: 4, switch_step: 2",
}
# Where 5e-3 moves the loss too little to be seen, or so much that it rises again.
RATES = {"adalora": 2e-2, "flexlora": 2e-2, "lora_plus": 1e-3, "rslora": 2e-3}
WORLDS = {
    1: ["sharding.fragment=zero0", f"batch.micro_size={ROWS}"],
    2: ["sharding.fragment=zero3"],
}
# fp32: sums in another order differ by some 1e-7 of a loss near 6, and five steps let that grow.
TOLERANCE = 1e-5
LEARNT = 1e-2
Tensors = dict[str, np.ndarray]


@dataclass
class End:
    """What one rank has after a run: masters, the copies that compute, what steps decided."""

    masters: Tensors
    live: Tensors
    decided: Tensors


@dataclass
class Ran:
    """A run of one method: its metrics, and the end of each rank."""

    losses: list[float]
    norms: list[float]
    ends: list[End]


def end_here(folder: Path, overrides: Sequence[str]) -> End:
    """One rank's part of a run."""
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
    finished = train(recipe, read_world(), Terminal(speaks=False))
    state, parameters = training_state(finished.engine), [i.parameter for i in finished.trained]
    gather(parameters)
    masters = {i.name: state.read(i.parameter, None) for i in finished.trained}
    live = {i.name: i.parameter.detach().float() for i in finished.trained}
    decided = evolving(finished.plan.seated)
    return End(
        *({k: t.numpy().copy() for k, t in part.items()} for part in (masters, live, decided))
    )


def one_method(name: str) -> list[str]:
    """The overrides that name a method."""
    options = f"name: {name}, {OPTIONS[name]}" if name in OPTIONS else f"name: {name}"
    rate = [f"optimizer.learning_rate={RATES[name]}"] if name in RATES else []
    return [f"method={{{options}}}", *rate]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Ran]:
    """The run of a method on so many ranks, made once."""

    @cache
    def of(name: str, size: int) -> Ran:
        folder = tmp_path_factory.mktemp(name)
        ends = world(size).call(end_here, folder, [*BASE, *one_method(name), *WORLDS[size]])
        return Ran(column(folder, "loss"), column(folder, "grad_norm"), ends)

    return of


@pytest.mark.parametrize("name", sorted(methods()))
def test_two_ranks_under_zero3_learn_what_one_rank_at_stage_0_learns(name, ran):
    alone, shared = ran(name, 1), ran(name, 2)

    assert len(alone.losses) == STEPS
    assert_allclose(shared.losses, alone.losses, rtol=0.0, atol=TOLERANCE)
    assert_allclose(shared.norms, alone.norms, rtol=TOLERANCE, atol=0.0)
    for end in shared.ends:
        assert_near(end.masters, alone.ends[0].masters, atol=TOLERANCE)
        assert_near(end.decided, alone.ends[0].decided, atol=0.0)
        assert_same(end.live, end.masters)
        assert_same(end.decided, shared.ends[0].decided)
    assert alone.losses[0] - alone.losses[-1] > LEARNT


def assert_near(found: Tensors, expected: Tensors, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_allclose(found[name], value, rtol=1e-3, atol=atol, err_msg=name)


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    assert [n for n, value in expected.items() if not np.array_equal(found[n], value)] == []


def test_without_learning_every_step_has_one_loss(tmp_path):
    """Or a lower loss would say nothing about the method."""
    run(2, tmp_path, *BASE, "optimizer.learning_rate=1e-12")

    losses = column(tmp_path, "loss")

    assert_allclose(losses, losses[0], rtol=0.0, atol=TOLERANCE)


def test_lora_dash_opens_within_these_steps(ran):
    masters, decided = ran("lora_dash", 2).ends[0].masters, ran("lora_dash", 2).ends[0].decided

    assert all(value == 1 for name, value in decided.items() if name.endswith("opened"))
    assert all(value.any() for name, value in masters.items() if name.endswith("dash"))


def test_adalora_closes_down_to_its_target_within_these_steps(ran):
    masks = [v for n, v in ran("adalora", 2).ends[0].decided.items() if n.endswith("mask")]

    assert sum(mask.sum() for mask in masks) == 2 * len(masks)
    assert len({mask.sum() for mask in masks}) > 1


def test_flexlora_moves_slots_between_linears_within_these_steps(ran):
    masks = [v for n, v in ran("flexlora", 2).ends[0].decided.items() if n.endswith("mask")]

    assert sum(mask.sum() for mask in masks) == 2 * len(masks)
    assert {mask.sum() for mask in masks} == {1, 2, 3}


@pytest.mark.parametrize("name", ["ssl", "ssb"])
def test_bf16_keeps_steps_of_scales_far_below_its_spacing_at_one(name, tmp_path):
    step, steps = 5e-4, 8  # bf16 numbers just above one lie 2⁻⁷ = 0.0078 apart
    more = [*BASE, f"method={{name: {name}, learning_rate_scale: 1}}"]
    more += [f"optimizer.learning_rate={step}", "optimizer.epsilon=1e-8"]
    bf16 = [*more, "train.precision=bf16"]

    one = world(2).call(end_here, tmp_path / "one", [*bf16, "train.steps=1"])
    many = world(2).call(end_here, tmp_path / "many", [*bf16, f"train.steps={steps}"])
    full = world(2).call(end_here, tmp_path / "full", [*more, f"train.steps={steps}"])

    for end in (*one, *many):
        assert_same(end.live, {n: in_bf16(value) for n, value in end.masters.items()})
    # Adam's first step is the learning rate, but for gradients that are next to nothing.
    assert np.mean(np.abs(np.abs(numbers(one)) - step) < 0.01 * step) > 0.98
    assert np.mean(np.abs(numbers(many))) > 0.98 * steps * step
    # Numbers whose gradients have no sign in bf16 go elsewhere: 0.7 % of them.
    distance = np.linalg.norm(numbers(many) - numbers(full))
    assert distance < 0.15 * np.linalg.norm(numbers(full))


def in_bf16(value: np.ndarray) -> np.ndarray:
    return torch.from_numpy(value).bfloat16().float().numpy()


def numbers(ends: Sequence[End]) -> np.ndarray:
    """All masters of the first rank, one after the other."""
    return np.concatenate([value.ravel() for value in ends[0].masters.values()])
