"""What convert-checkpoint refuses, with one message, and leaves nothing behind. Oracle: the files
of real saves, each damaged in one way.
"""

import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigpeft.checkpoint import verify
from bigpeft.cli import app
from bigpeft.errors import CheckpointError, UserError
from tests.checkpoint.deepspeed_saves import (
    ENDS,
    recipe_of,
    save_own_here,
    save_peft_here,
    stock_base,
)
from tests.commands import bigpeft
from tests.train.runs import DEBUG, run
from tests.worlds import world

MODEL = "zero_pp_rank_0_mp_rank_00_model_states.pt"
FIRST, SECOND = (f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1))
LORA = {"name": "lora", "rank": 3, "alpha": 6, "target_modules": ENDS}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return stock_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def saves(base, tmp_path_factory):
    """The save_dir of a model of HF peft."""
    folder = tmp_path_factory.mktemp("peft") / "theirs"
    world(2).call(save_peft_here, base, folder)
    return folder


@pytest.fixture
def theirs(saves, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(saves, tmp_path / "theirs")


def convert(theirs: Path, folder: Path, overrides: list[str], flag: str = "--unpickle"):
    words = ["convert-checkpoint", str(theirs), "--recipe", str(DEBUG), flag]
    return CliRunner().invoke(app, [*words, f"run.folder={folder}", *overrides])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    f"{SECOND}: is missing": lambda tag: (tag / SECOND).unlink(),
    f"{FIRST}: is missing": lambda tag: (tag / FIRST).unlink(),
    f"{MODEL}: is missing": lambda tag: (tag / MODEL).unlink(),
    f"{SECOND}: is damaged": lambda tag: cut(tag / SECOND),
    f"{MODEL}: is damaged": lambda tag: cut(tag / MODEL),
    f"{FIRST}: is damaged or no file of torch .*checksum": lambda tag: flip(tag / FIRST),
    f"{FIRST}: is no file of a ZeRO": lambda tag: shutil.copy(tag / MODEL, tag / FIRST),
    f"{MODEL}: is no file of a ZeRO": lambda tag: shutil.copy(tag / FIRST, tag / MODEL),
    "zero_pp_rank_2_mp_rank_00_optim_states.pt: is of another save": lambda tag: shutil.copy(
        tag / FIRST, tag / FIRST.replace("rank_0", "rank_2", 1)
    ),
    "zero_pp_rank_0_mp_rank_01_optim_states.pt: is of another tensor-parallel": lambda tag: (
        shutil.copy(tag / FIRST, tag / FIRST.replace("mp_rank_00", "mp_rank_01"))
    ),
    "global_step9: is no folder that": lambda tag: (tag.parent / "latest").write_text(
        "global_step9"
    ),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damaged_and_incomplete_saves_are_named(reason, theirs, base, tmp_path):
    DAMAGES[reason](theirs / "global_step2")

    told = convert(theirs, tmp_path / "run", recipe_of(base, LORA))

    assert isinstance(told.exception, CheckpointError)
    assert re.search(reason, str(told.exception))
    assert not (tmp_path / "run").exists()


def test_a_save_before_the_first_step_has_no_moments(theirs, base, tmp_path):
    told = convert(theirs / "untrained", tmp_path / "run", recipe_of(base, LORA))

    assert isinstance(told.exception, CheckpointError)
    assert f"untrained/{FIRST}: holds no moments of Adam" in str(told.exception)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_lower_stage_is_refused(stage, tmp_path):
    more = ["model.layers=1", "eval=null", "train.steps=1", f"sharding.fragment=zero{stage}"]
    world(2).call(save_own_here, tmp_path, more)

    told = convert(tmp_path / "theirs", tmp_path / "run", more)

    assert isinstance(told.exception, CheckpointError)
    assert "mp_rank_00_model_states.pt: is of a ZeRO stage below 3" in str(told.exception)


def test_files_of_two_saves_are_not_mixed(theirs, base, tmp_path):
    more = ["model.layers=1", "eval=null", "train.steps=2"]
    world(2).call(save_own_here, tmp_path / "own", more)
    shutil.copy(tmp_path / "own/theirs/global_step2" / SECOND, theirs / "global_step2" / SECOND)

    told = convert(theirs, tmp_path / "run", recipe_of(base, LORA))

    assert re.search(rf"{SECOND}: holds \[\d+\] numbers", str(told.exception))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rank": 4}, r"has \S+q_proj.lora_A of shape \(3, 128\), .* \(4, 128\)"),
        ({"target_modules": [*ENDS, "k_proj"]}, r"lacks \S+k_proj.lora_A, which the recipe trains"),
        ({"target_modules": ["q_proj"]}, r"holds \S+v_proj.lora_A.default.weight, which the"),
        ({"train_modules": ["norm"]}, r"lacks model.norm.weight"),
        ({"name": "lora_fa"}, r"a factor of HF peft's LoRA, which is not lora_fa"),
    ],
    ids=str,
)
def test_a_recipe_that_trains_something_else_is_refused(change, reason, saves, base, tmp_path):
    told = convert(saves, tmp_path / "run", recipe_of(base, LORA | change))

    assert isinstance(told.exception, CheckpointError)
    assert re.search(reason, str(told.exception))
    assert not (tmp_path / "run").exists()


def test_two_adapters_are_not_one(base, tmp_path):
    world(2).call(save_peft_here, base, tmp_path / "theirs", ("default", "other"))

    told = convert(tmp_path / "theirs", tmp_path / "run", recipe_of(base, LORA))

    assert re.search(
        r"holds \S+default.weight and \S+other.weight, two adapters", str(told.exception)
    )


def test_a_method_whose_decisions_are_not_in_the_save_is_refused(tmp_path):
    adalora = "method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0}"
    more = ["model.layers=1", "eval=null", "train.steps=2", adalora]
    world(2).call(save_own_here, tmp_path, more)

    told = convert(tmp_path / "theirs", tmp_path / "run", more)

    assert re.search(r"lacks \S+averages_A, which adalora changes", str(told.exception))


def test_a_count_of_steps_that_began_anew_is_refused(tmp_path):
    more = ["model.layers=1", "eval=null"]
    run(2, tmp_path / "first", *more, "train.steps=4", "train.stop_after=2")
    world(2).call(save_own_here, tmp_path, [*more, "train.steps=3", "checkpoint.resume=auto"])

    told = convert(tmp_path / "theirs", tmp_path / "run", more)

    assert "global_step1: counts 1 steps, but Adam has made 3 updates" in str(told.exception)


def test_a_guess_of_the_precision_that_is_wrong_is_refused(tmp_path):
    more = ["model.layers=1", "eval=null", "train.steps=1", "train.precision=bf16"]
    world(2).call(save_own_here, tmp_path, more)

    told = convert(tmp_path / "theirs", tmp_path / "run", [*more, "train.precision=auto"])

    assert "is of a bf16 run, and train.precision: auto means fp32" in str(told.exception)


@pytest.mark.parametrize("used", ["a checkpoint", "metrics"])
def test_a_run_folder_that_is_used_keeps_what_it_has(used, saves, base, tmp_path):
    folder = tmp_path / "run"
    if used == "metrics":
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("")
    else:
        assert convert(saves, folder, recipe_of(base, LORA)).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    told = convert(saves, folder, recipe_of(base, LORA))

    assert isinstance(told.exception, UserError)
    assert f"run.folder: {folder}: holds a run already" in str(told.exception)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    for step in folder.glob("checkpoints/step-*"):
        verify(step)


def arguments(theirs: Path, folder: Path, overrides: list[str]) -> list[str]:
    words = ["convert-checkpoint", str(theirs), "--recipe", str(DEBUG)]
    return [*words, f"run.folder={folder}", *overrides]


def test_a_disk_that_is_full_leaves_no_half_of_a_checkpoint(saves, base, tmp_path):
    words = [sys.executable, "-m", "bigpeft"]
    words += [*arguments(saves, tmp_path / "run", recipe_of(base, LORA)), "--unpickle"]

    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 16; exec {shlex.join(words)}"],  # files of 16 KiB at most
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
    assert convert(saves, tmp_path / "run", recipe_of(base, LORA)).exit_code == 0


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_nothing_is_unpickled_without_the_flag(theirs, base, tmp_path):
    (theirs / "global_step2" / MODEL).write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    done = bigpeft(*arguments(theirs, tmp_path / "run", recipe_of(base, LORA)))

    assert done.returncode == 2
    assert "opening a pickle can run any code" in done.stderr
    assert "--unpickle" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "run").exists()
