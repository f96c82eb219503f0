"""Saves behind the training. Oracle: the same run that saves at once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bigpeft.checkpoint import writer
from bigpeft.errors import CheckpointError
from bigpeft.recipe import load_recipe
from bigpeft.train.run import train
from bigpeft.train.saving import Saver
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.disks import fill, set_read_only, small_disk
from tests.train.runs import DEBUG, column, run, train_here
from tests.worlds import world

OVERRIDES = ["model.layers=2", "train.steps=6", "eval=null", "method.dropout=0.1"]
EVERY = "checkpoint={every: 2, keep: 9}"
ASYNC = "checkpoint={every: 2, keep: 9, async: true}"
SLOW = 0.4


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / f"checkpoints/step-{step:06d}").glob("*.safetensors"))
    return {f"{file.name}/{key}": value for file in files for key, value in load_file(file).items()}


def on_a_slow_machine(folder: Path, overrides: list[str]) -> None:
    """Copying the state aside takes a while, and so does writing it."""
    slow = [slowed(writer.HostCopies, "of"), slowed(writer, "save")]
    patched(slow, lambda: train_here(folder, overrides))


def slowed(owner: Any, name: str) -> tuple[Any, str, Any]:
    usual = getattr(owner, name)

    def slow(*arguments: Any) -> Any:
        time.sleep(SLOW)
        return usual(*arguments)

    return owner, name, slow


class Listener(Terminal):
    """Remembers what a run says."""

    def __init__(self) -> None:
        super().__init__(speaks=False)
        self.heard: list[str] = []

    def say(self, text: str) -> None:
        self.heard.append(text)


def on_a_disk_that_fails(folder: Path, overrides: list[str], step: int, how: str) -> str:
    """What a run says that finds no room, or no right to write, from the save of this step to the
    next one.
    """
    save, disk, listener = Saver.save, folder / "checkpoints", Listener()

    def failing(self: Saver, now: int, *arguments: Any) -> None:
        self._writer.wait()
        if torch.distributed.get_rank() == 0:
            if how == "read-only":
                set_read_only(disk, now == step)
            elif now == step:
                fill(disk)
            else:
                (disk / "ballast").unlink(missing_ok=True)
        torch.distributed.barrier()
        save(self, now, *arguments)

    def work() -> None:
        recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
        try:
            train(recipe, read_world(), listener)
        except CheckpointError as error:
            listener.say(f"CheckpointError: {error}")

    patched([(Saver, "save", failing)], work)
    return "\n".join(listener.heard)


def patched(changes: list[tuple[Any, str, Any]], work: Callable[[], None]) -> None:
    usual = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for change in changes:
        setattr(*change)
    try:
        work()
    finally:
        for before in usual:
            setattr(*before)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(2, tmp_path_factory.mktemp("at_once") / "run", *OVERRIDES, EVERY)


@pytest.mark.parametrize("stage", ["zero3", "zero2", "zero0"])
def test_what_is_saved_is_the_state_of_its_step(stage, tmp_path):
    fragment = f"sharding.fragment={stage}"
    expected = run(2, tmp_path / "at_once", *OVERRIDES, EVERY, fragment)

    world(2).call(on_a_slow_machine, tmp_path / "run", [*OVERRIDES, ASYNC, fragment])

    assert column(tmp_path / "run", "loss") == column(expected, "loss")
    for step in (2, 4, 6):
        found, wanted = tensors(tmp_path / "run", step), tensors(expected, step)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_the_training_goes_on_meanwhile(tmp_path):
    more = [*OVERRIDES, "checkpoint={every: 5, async: true}"]

    world(2).call(on_a_slow_machine, tmp_path / "run", more)

    manifest = tmp_path / "run/checkpoints/step-000005/manifest.json"
    metrics = tmp_path / "run/metrics.jsonl"  # last written after step 6
    assert manifest.stat().st_mtime - metrics.stat().st_mtime > SLOW / 2


def test_an_interrupted_run_goes_on_from_such_a_save(at_once, tmp_path):
    run(2, tmp_path / "run", *OVERRIDES, ASYNC, "train.stop_after=3")
    run(2, tmp_path / "run", *OVERRIDES, ASYNC, "checkpoint.resume=auto")

    assert column(tmp_path / "run", "loss") == column(at_once, "loss")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A run folder whose checkpoints have a small disk to themselves."""
    with small_disk(tmp_path / "run/checkpoints", 2):
        yield tmp_path / "run"


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


REASONS = {"full": "No space left", "read-only": "Read-only file system"}


@pytest.mark.parametrize("how", REASONS)
def test_a_write_that_fails_behind_the_training_is_told_and_the_run_goes_on(how, at_once, folder):
    keep_one = "checkpoint={every: 2, keep: 1, async: true}"

    said = world(2).call(on_a_disk_that_fails, folder, [*OVERRIDES, keep_one], 4, how)

    assert column(folder, "loss") == column(at_once, "loss")
    for told in said:
        assert "a checkpoint was not written" in told
        assert "step-000004.tmp: rank" in told
        assert REASONS[how] in told
        assert "CheckpointError" not in told
    assert saved(folder) == ["step-000006"]


def test_the_last_good_one_stays_when_the_last_write_fails_behind_the_training(folder):
    keep_one = "checkpoint={every: 2, keep: 1, async: true}"

    said = world(2).call(on_a_disk_that_fails, folder, [*OVERRIDES, keep_one], 6, "full")

    assert all("CheckpointError" in told and "step-000006.tmp" in told for told in said)
    assert saved(folder) == ["step-000004"]


@pytest.mark.parametrize("how", REASONS)
def test_a_disk_that_fails_ends_a_run_that_saves_at_once_and_loses_nothing(how, at_once, folder):
    said = world(2).call(on_a_disk_that_fails, folder, [*OVERRIDES, EVERY], 4, how)

    for told in said:
        assert "CheckpointError" in told
        assert "step-000004.tmp: rank" in told
        assert REASONS[how] in told
        assert "make room" in told
    if how == "read-only":
        set_read_only(folder / "checkpoints", False)
    (folder / "checkpoints/ballast").unlink(missing_ok=True)
    assert saved(folder) == ["step-000002"]
    run(2, folder, *OVERRIDES, EVERY, "checkpoint.resume=auto")
    assert column(folder, "loss") == column(at_once, "loss")
