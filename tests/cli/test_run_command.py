"""`bigpeft run` over real launches. Oracle: the run that nothing ended."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import UserError
from tests.cli.test_train_command import ENVIRONMENT, LAUNCH
from tests.train.runs import column, run

STEPS = 20
OVERRIDES = [f"train.steps={STEPS}", "checkpoint.every=8", "eval=null"]


@contextmanager
def guarded(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`bigpeft run` over two ranks that train in `folder`."""
    words = [sys.executable, "-m", "bigpeft", "run", "--retries", "2", "--pause", "1s", "--"]
    process = subprocess.Popen(
        [*words, *LAUNCH, f"run.folder={folder}", *OVERRIDES],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def steps_of(folder: Path) -> int:
    return len(column(folder, "step")) if (folder / "metrics.jsonl").exists() else 0


def second_rank(launch: psutil.Process) -> psutil.Process:
    for process in launch.children(recursive=True):
        if {"launch/train.py", "--local_rank=1"} <= set(process.cmdline()):
            return process
    raise AssertionError("no second rank")


def test_a_run_whose_rank_is_killed_ends_as_if_nothing_had_been(tmp_path):
    folder = tmp_path / "run"

    with guarded(folder) as process:
        wait_for(lambda: steps_of(folder) >= 10)  # two more than the checkpoint has
        second_rank(psutil.Process(process.pid)).kill()
        _, said = process.communicate(timeout=240)

    assert process.returncode == 0, said
    told = [line for line in said.splitlines() if line.startswith("bigpeft run:")]
    assert len(told) == 1
    assert "retry 1 of 2 from step-000008 in 1 s" in told[0]
    whole = run(2, tmp_path / "whole", *OVERRIDES)
    assert column(folder, "step") == list(range(1, STEPS + 1))
    assert column(folder, "loss") == column(whole, "loss")


def test_a_launch_that_is_terminated_saves_and_exits_with_75(tmp_path):
    folder = tmp_path / "run"

    with guarded(folder) as process:
        wait_for(lambda: steps_of(folder) >= 2)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)

    assert process.returncode == 75, said
    status = json.loads(CliRunner().invoke(app, ["status", str(folder), "--json"]).output)
    assert status["state"] == "stopped"
    assert status["checkpoint"] == f"step-{status['step']:06d}"
    assert 2 <= status["step"] < STEPS
    assert not (folder / "stop").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--retries -1", "--retries -1: is below 0"),
        ("--retries 1 --pause soon", "--pause soon: is no time"),
        ("--retries 1", "names no --recipe behind a script"),
    ],
)
@pytest.mark.parametrize("dashes", [["--"], []], ids=["dashes", "bare"])
def test_a_mistake_is_told_before_anything_starts(options, message, dashes):
    words = ["run", *options.split(), *dashes, "deepspeed", "--num_gpus", "2", "launch/train.py"]

    said = CliRunner().invoke(app, words)

    assert isinstance(said.exception, UserError)
    assert message in str(said.exception)
