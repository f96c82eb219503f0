"""Checkpoints of DeepSpeed's own format go on in bigpeft. Oracle: the run that was never
interrupted, and for a model of HF peft DeepSpeed's own accessors of its engine.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file
from typer.testing import CliRunner

from bigpeft.checkpoint import verify
from bigpeft.cli import app
from tests.checkpoint.deepspeed_saves import (
    ENDS,
    recipe_of,
    save_own_here,
    save_peft_here,
    stock_base,
)
from tests.train.runs import DEBUG, column, final_state, run, summary
from tests.worlds import world

STEP = Path("checkpoints/step-000002")
SMALL = [
    "model.layers=1",
    "model.config.intermediate_size=353",
    "method.rank=3",
    "optimizer.weight_decay=0.1",
    "eval=null",
    "train.steps=5",
]
KINDS = {
    "fp32": [],
    "bf16": ["train.precision=bf16"],
    "two groups": ["method.name=lora_plus"],
    "many sub-groups": ["sharding.fragment=FRAGMENT"],
    "the optimizer on the host": ["sharding.fragment=zero3_cpu"],
    "a dense module": ["method.train_modules=[norm]"],
    "a method that starts from W": ["method.name=pissa"],
    "a method that decides": ["method={name: lora_dash, rank: 4, switch_step: 2}"],
}


def converted(theirs: Path, folder: Path, *overrides: str) -> str:
    """What the command says."""
    words = ["convert-checkpoint", str(theirs), "--recipe", str(DEBUG), "--unpickle"]
    told = CliRunner().invoke(
        app, [*words, f"run.folder={folder}", *overrides], catch_exceptions=False
    )
    assert told.exit_code == 0
    return told.output


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return stock_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def peft_run(base, tmp_path_factory):
    """Folder of the saves, and what the engine held at the end."""
    folder = tmp_path_factory.mktemp("peft")
    return folder, world(2).call(save_peft_here, base, folder)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_deepspeed_saved_goes_on_as_if_never_interrupted(kind, tmp_path):
    fragment = tmp_path / "small.json"
    fragment.write_text('{"zero_optimization": {"stage": 3, "sub_group_size": 700}}')
    more = [*SMALL, *(option.replace("FRAGMENT", str(fragment)) for option in KINDS[kind])]
    expected = final_state(2, tmp_path / "whole", *more)
    world(2).call(save_own_here, tmp_path, [*more, "train.steps=3"])

    converted(tmp_path / "theirs", tmp_path / "run", *more)
    state = final_state(2, tmp_path / "run", *more, "checkpoint.resume=auto")

    assert column(tmp_path / "run", "step") == [4, 5]
    for key in ("loss", "grad_norm", "learning_rate"):
        assert column(tmp_path / "run", key) == column(tmp_path / "whole", key)[3:]
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


@pytest.mark.parametrize(("size", "stage"), [(1, "zero3"), (1, "zero2"), (4, "zero3")])
def test_it_goes_on_with_other_ranks_and_another_stage(size, stage, tmp_path):
    expected = final_state(2, tmp_path / "whole", *SMALL)
    world(2).call(save_own_here, tmp_path, [*SMALL, "train.steps=3"])

    converted(tmp_path / "theirs", tmp_path / "run", *SMALL)
    here = [f"sharding.fragment={stage}", "checkpoint.resume=auto"]
    state = final_state(size, tmp_path / "run", *SMALL, *here)

    # fp32: sums over ranks in another order
    losses = column(tmp_path / "whole", "loss")[3:]
    assert_allclose(column(tmp_path / "run", "loss"), losses, rtol=0, atol=1e-5)
    for name, value in expected.items():
        assert_allclose(state[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_folder_is_a_checkpoint_and_status_knows_the_run(tmp_path):
    world(2).call(save_own_here, tmp_path, [*SMALL, "train.steps=3"])

    said = converted(tmp_path / "theirs" / "global_step3", tmp_path / "run", *SMALL)
    status = CliRunner().invoke(app, ["status", str(tmp_path / "run")]).output

    step = tmp_path / "run" / "checkpoints" / "step-000003"
    verify(step)
    meta, ours = (
        json.loads((folder / "meta.json").read_text())
        for folder in (step, tmp_path / "first" / "checkpoints" / "step-000003")
    )
    for key in ("recipe", "plan"):  # another folder; how it was spread is not in their files
        meta.pop(key)
        ours.pop(key)
    assert meta == ours
    assert f"{step}: 14 parameters with their moments after 3 updates in fp32" in said
    assert "in full" not in said
    assert "stopped\nstep 3 of 5\ncheckpoint step-000003" in status


def test_a_run_that_goes_on_is_evaluated_though_nobody_saw_its_beginning(tmp_path):
    more = [option for option in SMALL if option != "eval=null"]
    run(2, tmp_path / "whole", *more)
    world(2).call(save_own_here, tmp_path, [*more, "train.steps=3"])

    converted(tmp_path / "theirs", tmp_path / "run", *more)
    run(2, tmp_path / "run", *more, "checkpoint.resume=auto")

    found, whole = summary(tmp_path / "run"), summary(tmp_path / "whole")
    assert found["eval_loss_after"] == whole["eval_loss_after"]
    assert "eval_loss_before" not in found


@pytest.mark.parametrize("wrapped", [False, True])
def test_masters_and_moments_of_a_peft_model_are_those_of_its_engine(wrapped, base, tmp_path):
    expected = world(2).call(save_peft_here, base, tmp_path / "peft", ("default",), wrapped)[0]
    method = {"name": "lora", "rank": 3, "alpha": 6, "target_modules": ENDS}
    more = recipe_of(base, method, "train.steps=2")

    converted(tmp_path / "peft", tmp_path / "run", *more)
    state = final_state(2, tmp_path / "run", *more, "checkpoint.resume=auto")

    assert np.abs(expected["model.layers.0.mlp.down_proj.lora_A.exp_avg_sq"]).max() > 0
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name
    assert summary(tmp_path / "run")["steps"] == 2  # nothing was left to do


def test_files_of_the_format_before_zip_are_read_too(peft_run, base, tmp_path):
    folder, _ = peft_run
    older = shutil.copytree(folder / "global_step2", tmp_path / "older")
    for path in older.glob("*.pt"):
        content = torch.load(path, weights_only=False)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    method = {"name": "lora", "rank": 3, "alpha": 6, "target_modules": ENDS}
    more = recipe_of(base, method)

    converted(folder, tmp_path / "run", *more)
    (tmp_path / "run").rename(tmp_path / "first")
    converted(older, tmp_path / "run", *more)

    first, run = ((tmp_path / name / STEP / "manifest.json") for name in ("first", "run"))
    assert first.read_text() == run.read_text()


def test_objects_beside_tensors_are_unpickled_and_that_is_said(peft_run, base, tmp_path):
    folder, expected = peft_run
    method = {"name": "rslora", "rank": 3, "alpha": 6, "target_modules": ENDS}

    said = converted(folder / "with_arguments", tmp_path / "run", *recipe_of(base, method))

    tensors = load_file(next((tmp_path / "run" / STEP).glob("shard*")))
    name = "model.layers.0.self_attn.q_proj.lora_B"
    assert np.array_equal(tensors[name].numpy(), expected[f"{name}.master"].ravel())
    assert "model_states.pt holds more than tensors and plain values" in said
