"""Oracle: arithmetic written out here, and the recipes that ship."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bigpeft.errors import RecipeError
from bigpeft.plan import make_plan
from bigpeft.plan.deepspeed_config import read_fragment
from bigpeft.plan.group import choose_group
from bigpeft.plan.make import accumulation, choose_precision
from bigpeft.recipe import Batch, load_recipe
from bigpeft.world import World

DEBUG = Path("recipes/debug.yaml")
TWO = World(size=2, local_size=2)


def plan_of(*overrides: str, world: World = TWO):
    return make_plan(load_recipe(DEBUG, overrides), world)


@given(steps=st.integers(1, 50), micro=st.integers(1, 9), world=st.integers(1, 64))
def test_accumulation_makes_up_the_global_batch(steps, micro, world):
    batch = Batch(global_size=steps * micro * world, micro_size=micro)

    assert accumulation(batch, world) == steps


@given(size=st.integers(1, 500), micro=st.integers(1, 9), world=st.integers(1, 64))
def test_a_batch_that_does_not_divide_is_refused_with_sizes_that_do(size, micro, world):
    batch = Batch(global_size=size, micro_size=micro)
    if size % (micro * world) == 0:
        return

    with pytest.raises(RecipeError, match=rf"batch\.global_size: {size} ") as caught:
        accumulation(batch, world)

    offered = [int(word) for word in caught.value.fix.replace(",", "").split() if word.isdigit()]
    assert offered
    assert all(accumulation(Batch(global_size=n, micro_size=micro), world) for n in offered)


def test_groups_are_the_world_a_node_or_a_divisor():
    zero3 = read_fragment("zero3")
    world = World(size=8, local_size=4)

    assert [choose_group(g, zero3, world) for g in ("world", "node", 2, 1)] == [8, 4, 2, 1]
    with pytest.raises(RecipeError, match=r"sharding\.group: 3 does not divide"):
        choose_group(3, zero3, world)
    with pytest.raises(RecipeError, match=r"sharding\.group: node needs ZeRO-3"):
        choose_group("node", read_fragment("zero2"), world)


@pytest.mark.parametrize("world", [World(), TWO], ids=["1", "2"])
@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_that_ships_loads_and_plans(path, world):
    recipe = load_recipe(path)
    assert yaml.safe_load(path.read_text())["model"].get("name") == recipe.model.name
    if recipe.model.name and not Path(recipe.model.name).is_dir():
        debug = load_recipe(DEBUG).model.config  # another Llama, where the recipe's is not here
        recipe = load_recipe(
            path, ["model.name=null", "model.random=true", f"model.config={json.dumps(debug)}"]
        )

    plan = make_plan(recipe, world)

    assert plan.trainable > 0
    assert plan.ds_config["train_batch_size"] == recipe.batch.global_size


@pytest.mark.parametrize("path", sorted(Path("ds_configs").glob("*.json")), ids=lambda p: p.stem)
def test_every_fragment_that_ships_is_completed_without_a_hole(path):
    plan = plan_of(f"sharding.fragment={path.stem}")

    assert "auto" not in str(plan.ds_config)
    assert plan.ds_config["zero_optimization"]["stage"] == plan.stage


def test_held_bytes_are_a_rank_s_part_of_the_model():
    whole = plan_of(world=World()).held
    half = plan_of().held

    assert whole.packed == whole.packed_total
    assert half.packed == -(-whole.packed_total // 2)
    assert half.packed_total == whole.packed_total
    assert half.optimizer == -(-whole.optimizer // 2)


def test_a_70b_model_is_planned_from_its_configuration_and_refused_on_one_small_machine():
    wide = ["hidden_size=8192", "intermediate_size=28672", "num_hidden_layers=80"]
    wide += ["num_attention_heads=64", "num_key_value_heads=8", "vocab_size=128256"]
    overrides = [f"model.config.{item}" for item in wide]

    with pytest.raises(RecipeError, match=r"model: needs \d+\.\d GiB on every rank"):
        plan_of(*overrides, "batch.global_size=4", world=World())
    two_layers = plan_of(*overrides, "model.layers=2")

    per_layer = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    bits = 8 * two_layers.held.packed_total / (2 * per_layer)
    assert 4.12 < bits < 4.13  # 4 + 8/64 + 32/(64 · 256)


def test_layers_beyond_the_model_s_are_refused():
    with pytest.raises(RecipeError, match=r"model\.layers: 9 is more"):
        plan_of("model.layers=9")


def test_precision_is_what_was_asked_and_by_default_what_the_machine_does_well():
    expected = "bf16" if torch.accelerator.is_available() else "fp32"

    assert choose_precision("auto") == expected
    assert [choose_precision(wanted) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert plan_of("train.precision=bf16").dtype == torch.bfloat16
    assert plan_of("train.precision=bf16").ds_config["bf16"]["enabled"] is True
