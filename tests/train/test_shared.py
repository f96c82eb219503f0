"""PiCa's layers share one up-projection. Oracle: one rank at stage 0, and the sum over layers."""

import numpy as np
import pytest
import torch
from torch.autograd import grad

from bigpeft.placement import Placement, place, start, trained
from tests.placement.test_place import CPU, skeleton
from tests.train.runs import column, final_state

PICA = [
    "method={name: pica, rank: 4}",
    "model.layers=2",
    "train.steps=4",
    "batch.global_size=4",
    "optimizer.learning_rate=2e-2",
]


def test_layers_of_one_name_have_one_parameter_and_learn_alike_on_any_ranks(tmp_path):
    one = final_state(1, tmp_path / "one", *PICA, "sharding.fragment=zero0")
    two = final_state(2, tmp_path / "two", *PICA, "batch.micro_size=1")

    assert [n for n in one if n.endswith("q_proj.up.master")] == [
        "model.layers.0.self_attn.q_proj.up.master"
    ]
    losses = [column(tmp_path / world, "loss") for world in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][-1] < losses[0][0]
    for name, value in one.items():
        assert np.allclose(two[name], value, rtol=1e-3, atol=1e-5), name


def test_the_gradient_is_the_sum_over_the_layers_that_share():
    model = skeleton()
    seated = place(model, Placement("pica", {"rank": 2}, ["q_proj", "o_proj"]))
    start(seated, 0, CPU, torch.float32)
    first, second = (seated[f"model.layers.{n}.self_attn.q_proj"] for n in (0, 1))

    for layer in (first, second):
        layer.right.normal_()
    assert second.common is first.common
    assert seated["model.layers.0.self_attn.o_proj"].common is not first.common
    assert len(trained(model, seated)) == 2
    slope = grad(first.merge(torch.zeros(48, 48)).sum(), first.common)[0]
    other = grad(second.merge(torch.zeros(48, 48)).sum(), first.common)[0]
    assert not torch.allclose(slope, other)
    both = first.merge(torch.zeros(48, 48)).sum() + second.merge(torch.zeros(48, 48)).sum()
    assert torch.allclose(grad(both, first.common)[0], slope + other)


def test_layers_may_also_keep_their_own():
    seated = place(skeleton(), Placement("pica", {"rank": 2, "shared": False}, ["q_proj"]))

    assert seated["model.layers.0.self_attn.q_proj"].common is not (
        seated["model.layers.1.self_attn.q_proj"].common
    )
