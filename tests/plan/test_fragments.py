"""Oracle: the list of keys that a recipe owns, and those that would damage packed bytes."""

import json

import pytest

from bigpeft.errors import FileError, RecipeError
from bigpeft.plan.deepspeed_config import read_fragment


def fragment(path, **content):
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    "key", ["train_batch_size", "bf16", "fp16", "optimizer", "gradient_clipping", "scheduler"]
)
def test_a_key_that_the_recipe_owns_is_refused_and_sent_there(key, tmp_path):
    path = fragment(tmp_path / "f.json", zero_optimization={"stage": 2}, **{key: 1})

    with pytest.raises(RecipeError, match=f"{key}: belongs to the recipe"):
        read_fragment(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("zero_quantized_weights", True),
        ("zero_quantized_nontrainable_weights", True),
        ("offload_param", {"device": "cpu"}),
        ("zero_hpz_partition_size", 4),
    ],
)
def test_what_would_damage_packed_bytes_is_refused_by_name(key, value, tmp_path):
    path = fragment(tmp_path / "f.json", zero_optimization={"stage": 3, key: value})

    with pytest.raises(RecipeError, match=rf"zero_optimization\.{key}"):
        read_fragment(path)


def test_an_unknown_fragment_lists_those_that_ship():
    with pytest.raises(RecipeError, match=r"(?s)'zero9' .*zero2, zero3, zero3_cpu"):
        read_fragment("zero9")


@pytest.mark.parametrize("content", ["{", '{"zero_optimization": {"stage": 4}}', "[]", "{}"])
def test_a_file_that_is_no_fragment_is_named(content, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(content)

    with pytest.raises(FileError, match=r"broken\.json"):
        read_fragment(str(path))
