"""Runs that are killed go on as if nothing had happened. Oracle: the run that nobody killed."""

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from bigpeft.checkpoint import verify
from tests.faults.killed import calls, killed_after, killed_at
from tests.train.runs import column, run

METHOD = (
    "method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0, dropout: 0.1}"
)
OVERRIDES = [
    METHOD,  # its budget moves at every step
    "model.layers=1",
    "data.limit=12",  # an epoch is a step and a half
    "batch={global_size: 8, micro_size: 2}",
    "train.steps=5",
    "eval=null",
    "checkpoint={every: 1, keep: 1}",
]
WAYS = {"at once": [], "behind": ["checkpoint.async=true"]}
SAVE = 3  # the save in which ranks are killed


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(2, tmp_path_factory.mktemp("whole") / "run", *OVERRIDES)


def moments(folder: Path, overrides: list[str]) -> list[tuple[int, int, str]]:
    """Rank, number and name of every call that a save makes on its folder."""
    found = []
    for rank in range(2):
        heard = calls(folder / f"listen-{rank}", overrides, rank)
        first, last = (
            next(n for n, call in enumerate(heard) if f"step-{step:06d}" in call)
            for step in (SAVE, SAVE + 1)
        )
        found += [(rank, number, heard[number]) for number in range(first, last)]
    return found


def goes_on(folder: Path, overrides: list[str], whole: Path, fault: str) -> None:
    """The killed run, started again, does what the whole one did, and leaves what it left."""
    run(2, folder, *overrides, "checkpoint.resume=auto")

    assert column(folder, "step") == column(whole, "step"), fault
    for key in ("loss", "grad_norm"):
        assert column(folder, key) == column(whole, key), fault
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left == ["latest", "step-000005"], fault
    verify(folder / "checkpoints/step-000005")


def kill_at(
    chosen: Iterable[tuple[int, int, str]], overrides: list[str], whole: Path, tmp_path: Path
) -> None:
    for rank, number, call in chosen:
        folder = tmp_path / f"rank-{rank}-call-{number}"
        killed_at(folder, overrides, rank, number)
        assert column(folder, "step") in ([1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5])
        goes_on(folder, overrides, whole, f"rank {rank} before call {number}, {call}")


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_dies_in_a_save(way, whole, tmp_path):
    overrides = [*OVERRIDES, *WAYS[way]]
    found = moments(tmp_path, overrides)
    decisive = [m for m in found if "os.rename" in m[2] or "manifest" in m[2]]

    kill_at(random.Random(1).sample(decisive, 2), overrides, whole, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_a_rank_dies_before_any_call_of_a_save(way, whole, tmp_path):
    overrides = [*OVERRIDES, *WAYS[way]]
    found = moments(tmp_path, overrides)
    assert len(found) >= 30

    kill_at(found, overrides, whole, tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_all_ranks_die_at_a_random_moment(way, whole, tmp_path):
    kill_after(1, 2, [*OVERRIDES, *WAYS[way]], whole, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_all_ranks_die_at_many_random_moments(way, whole, tmp_path):
    kill_after(15, 3, [*OVERRIDES, *WAYS[way]], whole, tmp_path)


def kill_after(times: int, seed: int, overrides: list[str], whole: Path, tmp_path: Path) -> None:
    draw = random.Random(seed)
    for _ in range(times):
        steps, seconds = draw.randint(1, 3), draw.uniform(0, 0.15)
        folder = tmp_path / f"steps-{steps}-{seconds:.3f}"
        killed_after(folder, overrides, steps, seconds)
        goes_on(folder, overrides, whole, f"{seconds:.3f} s after step {steps}")
