"""Masters and moments on a drive. Oracle: the same run with them in memory."""

import json
from pathlib import Path

import numpy as np
import pytest
from deepspeed.ops.op_builder import AsyncIOBuilder

from tests.train.runs import column, final_state, refusals, run

OVERRIDES = [
    "model.config.num_hidden_layers=6",
    "method.rank=64",  # DeepSpeed keeps what is smaller than a MiB in memory
    "batch={global_size: 4, micro_size: 1}",
    "train.steps=4",
    "optimizer.weight_decay=0.1",
    "eval=null",
]


@pytest.fixture
def fragment(tmp_path):
    content = json.loads(Path("ds_configs/zero3.json").read_text())
    offload = {"device": "nvme", "nvme_path": str(tmp_path / "drive")}
    content["zero_optimization"]["offload_optimizer"] = offload
    path = tmp_path / "nvme.json"
    path.write_text(json.dumps(content))
    return f"sharding.fragment={path}"


def build_async_io():
    """Where it is not there yet this takes longer than ranks may be silent."""
    builder = AsyncIOBuilder()
    if not builder.is_compatible(verbose=False):
        pytest.skip("DeepSpeed's async_io cannot be built: install libaio-dev and g++")
    builder.load(verbose=False)


def test_a_run_goes_on_from_the_drive_and_is_the_one_in_memory_bit_for_bit(fragment, tmp_path):
    build_async_io()
    expected = final_state(2, tmp_path / "memory", *OVERRIDES)

    run(2, tmp_path / "cut", *OVERRIDES, fragment, "train.stop_after=2")
    swapped = [path for path in (tmp_path / "drive").rglob("*.swp") if path.stat().st_size]
    state = final_state(2, tmp_path / "cut", *OVERRIDES, fragment, "checkpoint.resume=auto")

    assert len(swapped) >= 2 * 3  # a master and two moments of each rank
    assert column(tmp_path / "cut", "loss") == column(tmp_path / "memory", "loss")
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


def test_a_drive_that_is_not_there_is_named(fragment, tmp_path):
    (tmp_path / "drive").write_text("no folder")

    [(kind, text)] = refusals(1, tmp_path / "run", *OVERRIDES, fragment)

    assert kind == "FileError"
    assert "drive: cannot be made" in text
