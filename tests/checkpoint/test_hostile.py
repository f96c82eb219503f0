"""Checkpoints that somebody made up, whose manifest agrees with them: refused by name."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.train.runs import refusals, run

OVERRIDES = ["model.layers=1", "train.steps=2", "eval=null"]

HOSTILE = {
    "of the future": {"version": 99},
    "without a step": {"step": None},
    "with a name for a step": {"step": "x"},
    "with shapes that are none": {"parameters": {"a": "b"}},
    "with a base that is none": {"base": {"tensors": 3}},
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(1, tmp_path_factory.mktemp("stopped") / "run", *OVERRIDES, "train.stop_after=1")


@pytest.fixture
def cut(stopped, tmp_path) -> Path:
    """A copy, to be forged."""
    return shutil.copytree(stopped, tmp_path / "cut")


@pytest.mark.parametrize("how", HOSTILE)
def test_a_description_that_is_none_is_refused_by_name(how, cut, resealed):
    meta = next((cut / "checkpoints").glob("step-*")) / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | HOSTILE[how]))
    resealed(meta.parent)

    ((kind, text),) = refusals(1, cut, *OVERRIDES, "checkpoint.resume=auto")

    assert kind == "CheckpointError"
    assert f"{meta}: describes no checkpoint" in text


def test_shapes_of_any_size_may_be_claimed_and_nothing_is_made_of_them(cut, resealed):
    meta = next((cut / "checkpoints").glob("step-*")) / "meta.json"
    content = json.loads(meta.read_text())
    name = next(iter(content["parameters"]))
    content["parameters"][name] = [1 << 40, 1 << 20]
    meta.write_text(json.dumps(content))
    resealed(meta.parent)

    ((kind, text),) = refusals(1, cut, *OVERRIDES, "checkpoint.resume=auto")

    assert kind == "CheckpointError"
    assert name in text


@pytest.mark.parametrize("file", ["shard", "state"])
def test_tensors_that_are_not_what_the_description_says_are_refused(file, tmp_path, resealed):
    more = ["method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0}"]
    cut = run(1, tmp_path / "cut", *OVERRIDES, *more, "train.stop_after=1")
    path = next((cut / "checkpoints").glob(f"step-*/{file}*.safetensors"))
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path)
    resealed(path.parent)

    ((kind, text),) = refusals(1, cut, *OVERRIDES, *more, "checkpoint.resume=auto")

    assert kind == "CheckpointError"
    assert str(path.parent) in text
