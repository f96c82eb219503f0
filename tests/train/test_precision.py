"""Oracle: the same run in fp32."""

import math
from pathlib import Path

import pytest
from torch.testing import assert_close

from tests.train.runs import column, refusals, run

OVERRIDES = ["batch.global_size=4", "batch.micro_size=2", "train.steps=6", "eval=null"]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(2, tmp_path_factory.mktemp("fp32"), *OVERRIDES)


@pytest.mark.parametrize("fragment", ["zero0", "zero1", "zero2", "zero3", "zero3_cpu"])
def test_bf16_follows_fp32_at_every_stage(fragment, fp32, tmp_path):
    more = ["train.precision=bf16", f"sharding.fragment={fragment}"]

    folder = run(2, tmp_path, *OVERRIDES, *more)

    # bf16 keeps 8 bits of a number: a norm of thousands is off by less, a mean over tokens by a
    # tenth of that. One update too large or too small moves the loss by 1e-3 of itself and more.
    assert_close(column(folder, "loss"), column(fp32, "loss"), rtol=5e-4, atol=0.0)
    assert_close(column(folder, "grad_norm"), column(fp32, "grad_norm"), rtol=2**-6, atol=0.0)
    assert column(folder, "loss") != column(fp32, "loss")


@pytest.mark.parametrize("fragment", ["zero0", "zero3"])
def test_bf16_trains_a_dense_module_beside_the_adapters(fragment, fp32, tmp_path):
    more = [f"sharding.fragment={fragment}", "method.train_modules=[norm]"]

    folder = run(2, tmp_path, *OVERRIDES, *more, "train.precision=bf16")

    losses = column(folder, "loss")
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_fp16_without_an_accelerator_is_a_mistake_that_the_recipe_can_mend(tmp_path):
    for kind, text in refusals(2, tmp_path, *OVERRIDES, "train.precision=fp16"):
        assert kind == "RecipeError"
        assert text.startswith("train.precision")
