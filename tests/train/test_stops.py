"""A run that is told to stop saves and goes on later. Oracle: the run that nobody stopped."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from bigpeft.errors import StoppedEarly
from bigpeft.recipe import load_recipe
from bigpeft.train.folder import open_run
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import World, read_world
from tests.train.runs import DEBUG, column, refusals, run
from tests.worlds import world

OVERRIDES = ["model.layers=1", "train.steps=30", "eval=null", "method.dropout=0.1"]


def told(folder: Path, number: int) -> tuple[str, bool]:
    """A run whose second rank gets the signal after the third step. What the run said of it, and
    whether the process hears the signal as before.
    """
    before = signal.getsignal(number)
    if read_world().rank == 1:
        threading.Thread(target=signal_after, args=(folder, 3, number), daemon=True).start()
    try:
        train(
            load_recipe(DEBUG, [f"run.folder={folder}", *OVERRIDES]),
            read_world(),
            Terminal(speaks=read_world().is_first),
        )
    except StoppedEarly as stop:
        return str(stop), signal.getsignal(number) == before
    return "ended", False


def signal_after(folder: Path, steps: int, number: int) -> None:
    while not (folder / "metrics.jsonl").exists() or len(column(folder, "step")) < steps:
        time.sleep(0.005)
    os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return run(2, tmp_path_factory.mktemp("whole") / "run", *OVERRIDES)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_after_a_save(number, whole, tmp_path):
    folder = tmp_path / "run"

    said = world(2).call(told, folder, int(number))

    done = column(folder, "step")[-1]
    assert 3 <= done < 30
    assert said == [(f"stopped by {number.name} after step {done} of 30", True)] * 2
    assert (folder / f"checkpoints/step-{done:06d}/manifest.json").exists()
    run(2, folder, *OVERRIDES, "checkpoint.resume=auto")
    assert column(folder, "loss") == column(whole, "loss")


def test_a_file_stops_a_run_once(whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "stop").touch()

    run(2, folder, *OVERRIDES)

    assert column(folder, "step") == [1]
    assert not (folder / "stop").exists()
    run(2, folder, *OVERRIDES, "checkpoint.resume=auto")
    assert column(folder, "loss") == column(whole, "loss")


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    folder = tmp_path / "run"

    with open_run(folder, False, World()):
        refused = refusals(1, folder, *OVERRIDES, "checkpoint.resume=auto")

    assert [kind for kind, _ in refused] == ["FileError"]
    assert f"is in use by another run (process {os.getpid()} on" in refused[0][1]
    assert not (folder / "checkpoints").exists()
