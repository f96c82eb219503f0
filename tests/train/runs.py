"""Real runs of recipes/debug.yaml on the shared pools of ranks, and readers of what they leave."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bigpeft.checkpoint import training_state
from bigpeft.errors import StoppedEarly
from bigpeft.export import save_adapter
from bigpeft.recipe import load_recipe
from bigpeft.train.metrics import read_rows
from bigpeft.train.run import Finished, train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.worlds import world

DEBUG = Path("recipes/debug.yaml")


def run(size: int, folder: Path, *overrides: str) -> Path:
    """Train on `size` ranks, to the end or to train.stop_after. Returns the run folder."""
    world(size).call(train_here, folder, overrides)
    return folder


def refusals(size: int, folder: Path, *overrides: str) -> list[tuple[str, str]]:
    """Kind and text of the error that every rank raises instead of training."""
    return world(size).call(refuse_here, folder, overrides)


def final_state(size: int, folder: Path, *overrides: str) -> dict[str, np.ndarray]:
    """Train to the end; masters and both moments of everything that is trained, by name."""
    return world(size).call(state_here, folder, overrides)[0]


def train_here(folder: Path, overrides: Sequence[str]) -> None:
    """One rank's part of a run, to its end or to an early stop."""
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
    with contextlib.suppress(StoppedEarly):
        train(recipe, read_world(), Terminal(speaks=read_world().is_first))


def state_here(folder: Path, overrides: Sequence[str]) -> dict[str, np.ndarray]:
    """One rank's part of a run, and the state that all ranks hold together at its end."""
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
    run = train(recipe, read_world(), Terminal(speaks=read_world().is_first))
    state = training_state(run.engine)
    return {
        f"{item.name}.{moment or 'master'}": state.read(item.parameter, moment).numpy()
        for item in run.trained
        for moment in (None, "exp_avg", "exp_avg_sq")
    }


def train_and_save_here(folder: Path, overrides: Sequence[str]) -> Finished:
    """One rank's part of a run whose adapter is saved."""
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
    finished = train(recipe, read_world(), Terminal(speaks=False))
    kept = finished.backbone
    save_adapter(
        folder / "adapter",
        finished.trained,
        finished.plan,
        finished.engine,
        kept.base,
        kept.started_from,
    )
    return finished


def refuse_here(folder: Path, overrides: Sequence[str]) -> tuple[str, str]:
    """One rank's error."""
    try:
        train_here(folder, overrides)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", "trained to the end"


def column(folder: Path, key: str) -> list[Any]:
    """One value of every step, as metrics.jsonl has it."""
    return [row[key] for row in read_rows(folder / "metrics.jsonl")]


def summary(folder: Path) -> dict[str, Any]:
    """summary.json of a finished run."""
    return json.loads((folder / "summary.json").read_text())
