"""`bigpeft status` reads a run folder. Oracle: the run that left it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError
from bigpeft.train.folder import open_run
from bigpeft.world import World
from tests.train.runs import column, run

OVERRIDES = ["model.layers=1", "train.steps=4", "checkpoint.every=1", "eval=null"]


def status(folder: Path) -> dict:
    said = CliRunner().invoke(app, ["status", str(folder), "--json"])
    assert said.exit_code == 0, said.output
    return json.loads(said.output)


def test_a_run_is_stopped_then_finished(tmp_path):
    folder = run(1, tmp_path / "run", *OVERRIDES, "train.stop_after=2")

    found = status(folder)
    assert (found["state"], found["step"], found["steps"]) == ("stopped", 2, 4)
    assert found["loss"] == column(folder, "loss")[-1]
    assert found["checkpoint"] == "step-000002"
    assert 0 <= found["checkpoint_age"] < 60
    assert found["damaged"] == []
    run(1, folder, *OVERRIDES, "checkpoint.resume=auto")
    assert status(folder)["state"] == "finished"
    said = CliRunner().invoke(app, ["status", str(folder)]).output
    assert "step 4 of 4" in said
    assert "checkpoint step-000004" in said


def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path):
    folder = run(1, tmp_path / "run", *OVERRIDES)
    (folder / "checkpoints/step-000004/meta.json").write_text("{}")

    found = status(folder)

    assert found["checkpoint"] == "step-000003"
    assert found["state"] == "interrupted"
    assert "meta.json" in found["damaged"][0]
    assert "meta.json" in CliRunner().invoke(app, ["status", str(folder)]).output


def test_a_run_that_goes_on_says_when_it_ends_and_a_killed_one_that_it_does_not(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "launch/train.py", "--recipe", "recipes/debug.yaml"]
    command += [f"run.folder={folder}", "train.steps=100000", "checkpoint.every=3", "eval=null"]
    process = subprocess.Popen(
        command, env=os.environ | {"DS_ACCELERATOR": "cpu"}, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 300
        while not list((folder / "checkpoints").glob("step-*3")) and time.monotonic() < deadline:
            time.sleep(0.2)
        found = status(folder)
    finally:
        process.kill()
        process.wait()

    assert found["state"] == "running"
    assert found["steps"] == 100000
    assert found["seconds_left"] > 0
    after = status(folder)
    assert after["state"] in ("interrupted", "stopped")
    assert after["seconds_left"] is None
    assert int(after["checkpoint"].removeprefix("step-")) <= after["step"]
    with open_run(folder, True, World()):  # the lock died with the process
        assert status(folder)["state"] == "running"


def test_a_folder_of_something_else_is_refused(tmp_path):
    said = CliRunner().invoke(app, ["status", str(tmp_path)])

    assert isinstance(said.exception, FileError)
    assert "is no run folder" in str(said.exception)
