"""The newest checkpoint is damaged: the one before it is used. Oracle: the run without damage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.train.runs import column, run

OVERRIDES = [
    "method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0}",
    "model.layers=1",
    "train.steps=4",
    "eval=null",
    "checkpoint={every: 1, keep: 2}",
]
KINDS = {
    "shard": "shard-00002*",
    "random states": "rng-00001*",
    "method state": "state.safetensors",
    "description": "meta.json",
    "manifest": "manifest.json",
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {"flipped": flip, "cut": cut, "gone": Path.unlink}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(2, tmp_path_factory.mktemp("whole") / "run", *OVERRIDES)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    return run(2, folder, *OVERRIDES, "train.stop_after=3")


def goes_on(folder: Path, whole: Path) -> None:
    run(2, folder, *OVERRIDES, "checkpoint.resume=auto")
    for key in ("step", "loss", "grad_norm"):
        assert column(folder, key) == column(whole, key)


def damage(kind: str, how: str, stopped: Path, folder: Path) -> None:
    shutil.copytree(stopped, folder)
    (path,) = (folder / "checkpoints/step-000003").glob(KINDS[kind])
    DAMAGES[how](path)


@pytest.mark.parametrize(
    ("kind", "how"), list(zip(KINDS, ["flipped", "cut", "gone", "flipped", "cut"], strict=True))
)
def test_the_checkpoint_before_is_used(kind, how, stopped, whole, tmp_path):
    damage(kind, how, stopped, tmp_path / "run")

    goes_on(tmp_path / "run", whole)


@pytest.mark.long
@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_checkpoint_before_is_used_whatever_happened_to_which_file(
    kind, how, stopped, whole, tmp_path
):
    damage(kind, how, stopped, tmp_path / "run")

    goes_on(tmp_path / "run", whole)


def test_the_manifest_of_another_run_vouches_for_nothing(stopped, whole, tmp_path):
    folder = shutil.copytree(stopped, tmp_path / "run")
    other = run(2, tmp_path / "other", *OVERRIDES, "train.stop_after=3", "run.seed=8")
    manifest = "checkpoints/step-000003/manifest.json"
    shutil.copy(other / manifest, folder / manifest)

    goes_on(folder, whole)


def test_where_renames_are_copies_what_is_half_copied_is_no_checkpoint(stopped, whole, tmp_path):
    """As on a file system that moves a folder file by file and was stopped in the middle."""
    folder = shutil.copytree(stopped, tmp_path / "run")
    newest = folder / "checkpoints/step-000003"
    half = newest.with_suffix(".tmp")
    half.mkdir()
    for path in sorted(newest.iterdir())[::2]:
        path.rename(half / path.name)

    goes_on(folder, whole)

    names = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    assert names == ["step-000003", "step-000004"]
