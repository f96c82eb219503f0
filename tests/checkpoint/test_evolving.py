"""What a method decides while it trains survives a stop. Oracle: the unbroken run."""

import contextlib
import json
from pathlib import Path

from bigpeft.errors import StoppedEarly
from bigpeft.recipe import load_recipe
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.worlds import world

DASH = [
    "method={name: lora_dash, rank: 4, switch_step: 2}",
    "model.layers=1",
    "train.steps=5",
    "checkpoint.every=3",
]


def train_here(folder: Path, overrides: list[str]) -> None:
    recipe = load_recipe(Path("recipes/debug.yaml"), [f"run.folder={folder}", *overrides])
    with contextlib.suppress(StoppedEarly):
        train(recipe, read_world(), Terminal(speaks=False))


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def test_directions_chosen_before_a_stop_are_those_after_it(tmp_path):
    unbroken, stopped = tmp_path / "unbroken", tmp_path / "stopped"

    world(2).call(train_here, unbroken, DASH)
    world(2).call(train_here, stopped, [*DASH, "train.stop_after=3"])
    world(2).call(train_here, stopped, [*DASH, "checkpoint.resume=auto"])

    assert losses(stopped) == losses(unbroken)
