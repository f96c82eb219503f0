"""Oracle: the list of keys that a recipe owns, and those that would damage packed bytes."""

import json
from pathlib import Path

import pytest

from bigpeft.errors import FileError, RecipeError
from bigpeft.plan import make_plan
from bigpeft.plan.deepspeed_config import read_fragment
from bigpeft.recipe import load_recipe
from bigpeft.world import World


def fragment(path, **content):
    path.write_text(json.dumps(content))
    return str(path)


def plan_with(path):
    return make_plan(
        load_recipe(Path("recipes/debug.yaml"), [f"sharding.fragment={path}"]), World()
    )


@pytest.mark.parametrize(
    "key",
    [
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "bf16",
        "fp16",
        "torch_autocast",
        "optimizer",
        "scheduler",
        "activation_checkpointing",
    ],
)
def test_a_key_that_the_recipe_owns_is_refused_and_sent_there(key, tmp_path):
    path = fragment(tmp_path / "f.json", zero_optimization={"stage": 2}, **{key: 1})

    with pytest.raises(RecipeError, match=f"{key}: belongs to the recipe"):
        read_fragment(path)


CPU, NVME = {"device": "cpu"}, {"device": "nvme", "nvme_path": "/tmp"}


@pytest.mark.parametrize(
    ("stage", "key", "value", "word"),
    [
        (3, "zero_quantized_weights", True, "packed bytes are codes already"),
        (3, "zero_quantized_nontrainable_weights", True, "packed bytes are codes already"),
        (3, "zero_quantized_gradients", True, "adapters have few"),
        (2, "zero_hpz_partition_size", 4, r"no effect at stage 2"),
        (3, "zenflow", {"topk_ratio": 0.1}, "own CPU Adam"),
        (3, "offload_param", NVME, r"(?s)packed weights are bytes.*write cpu.*sharding\.group"),
        (2, "offload_optimizer", NVME, r"device: nvme needs stage 3"),
        (3, "offload_optimizer", {"device": "nvme"}, r"nvme_path: is missing"),
        (2, "offload_param", CPU, "no effect at stage 2"),
        (0, "offload_optimizer", CPU, "no effect at stage 0"),
        (3, "offload_optimizer", CPU | {"ratio": 0.5}, "own CPU Adam"),
        (3, "offload_optimizer", CPU | {"super_offload": True}, "own CPU Adam"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name_before_anything_is_loaded(
    stage, key, value, word, tmp_path
):
    path = fragment(tmp_path / "f.json", zero_optimization={"stage": stage, key: value})

    with pytest.raises(RecipeError, match=word) as raised:
        plan_with(path)

    assert f"zero_optimization.{key}" in str(raised.value)
    assert "\n  fix: " in str(raised.value)


@pytest.mark.parametrize(
    ("stage", "key", "value"),
    [
        (1, "offload_optimizer", CPU),
        (2, "offload_optimizer", CPU),
        (3, "offload_optimizer", NVME),
        (3, "offload_param", CPU),
    ],
)
def test_what_works_is_let_through(stage, key, value, tmp_path):
    zero = {"stage": stage, key: value, "zero_hpz_partition_size": 1}
    zero |= {"stage3_param_persistence_threshold": "auto", "zero_quantized_weights": False}
    path = fragment(tmp_path / "f.json", zero_optimization=zero)

    assert plan_with(path).ds_config["zero_optimization"][key] == value


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("sharding.group", "auto", r"sharding\.group: auto does not go with hpZ"),
        ("sharding.group", "2", r"sharding\.group: 2 does not go with hpZ"),
        ("zero_hpz_partition_size", 4, "zero_hpz_partition_size: 4 does not divide .* size 6"),
    ],
)
def test_a_second_copy_that_cannot_be_cut_is_refused(key, value, word, tmp_path):
    zero = {"stage": 3, "zero_hpz_partition_size": 2}
    changed = ["batch.global_size=6", "batch.micro_size=1"]
    if key in zero:
        zero[key] = value
    else:
        changed.append(f"{key}={value}")
    changed.append(f"sharding.fragment={fragment(tmp_path / 'f.json', zero_optimization=zero)}")

    with pytest.raises(RecipeError, match=word):
        make_plan(load_recipe(Path("recipes/debug.yaml"), changed), World(size=6, local_size=2))


def test_the_second_copy_is_a_node_s_and_there_is_none_on_one_node():
    recipe = load_recipe(Path("recipes/debug.yaml"), ["sharding.fragment=zero3_hpz"])

    assert make_plan(recipe, World(size=4, local_size=2)).second_copy == 2
    assert make_plan(recipe, World(size=4, local_size=4)).second_copy == 0


def test_an_unknown_fragment_lists_those_that_ship():
    with pytest.raises(RecipeError, match=r"(?s)'zero9' .*zero2, zero3, zero3_cpu"):
        read_fragment("zero9")


@pytest.mark.parametrize("content", ["{", '{"zero_optimization": {"stage": 4}}', "[]", "{}"])
def test_a_file_that_is_no_fragment_is_named(content, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(content)

    with pytest.raises(FileError, match=r"broken\.json"):
        read_fragment(str(path))


def test_keys_of_a_fragment_survive_what_the_plan_adds(tmp_path):
    zero = {"stage": 3, "overlap_comm": False, "stage3_max_live_parameters": 123}
    path = fragment(tmp_path / "own.json", zero_optimization=zero, wall_clock_breakdown=True)

    made = plan_with(path)

    assert zero.items() <= made.ds_config["zero_optimization"].items()
    assert made.ds_config["wall_clock_breakdown"] is True
