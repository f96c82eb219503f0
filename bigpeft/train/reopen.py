"""A run, or a model alone, opened for use over its packed and perhaps sharded backbone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigpeft.checkpoint import find_together, load
from bigpeft.checkpoint.engine import Engine
from bigpeft.errors import FileError
from bigpeft.placement import evolving
from bigpeft.plan import Plan, make_plan
from bigpeft.recipe import Recipe, Tracking, load_recipe
from bigpeft.train.backbone import load_backbone, open_backbone
from bigpeft.train.engine import build_engine, join_processes
from bigpeft.train.generation import Generator
from bigpeft.train.judge import make_generator
from bigpeft.train.rows import Preparation, Say
from bigpeft.train.start_from import start_from
from bigpeft.world import World


@dataclass(frozen=True)
class Opened:
    """`rows` reads and tokenises as the recipe says."""

    plan: Plan
    generator: Generator
    rows: Preparation


def recipe_of(place: Path, world: World) -> Recipe:
    """The recipe of a run folder; of a model folder one whose adapter changes nothing.

    Batches are those that any number of ranks can share. Raises FileError for neither.
    """
    batch = {"global_size": world.size, "micro_size": 1}
    if (place / "recipe.yaml").is_file():
        recipe = load_recipe(place / "recipe.yaml")
        return recipe.model_copy(
            update={"batch": recipe.batch.model_copy(update=batch), "tracking": Tracking()}  # type: ignore[call-arg]
        )
    if not (place / "config.json").is_file():
        raise FileError(
            str(place),
            "is neither a run folder nor a model folder",
            "name a folder with recipe.yaml, or one with config.json",
        )
    return Recipe.model_validate(
        {
            "model": {"name": str(place)},
            "method": {"name": "lora", "rank": 1},
            "data": {"path": "none"},
            "batch": batch,
            "run": {"folder": str(place)},
            "train": {"steps": 1},
        }
    )


def reopen(recipe: Recipe, place: Path, folder: Path, world: World, say: Say) -> Opened:
    """Load it on all ranks: the exported adapter of the run at `place`, or its newest checkpoint
    where it has not ended. Tokens go to `folder`. Raises UserError as a run does.
    """
    adapter, checkpoints = place / "adapter", place / "checkpoints"
    if adapter.is_dir():
        method: Any = recipe.method
        method = method.model_copy(update={"start_from": str(adapter)})
        recipe = recipe.model_copy(update={"method": method})
    plan = make_plan(recipe, world)
    weights = open_backbone(plan, say)
    device = join_processes(world)
    backbone = load_backbone(plan, weights, device)
    engine: Engine = build_engine(plan.model, backbone.trained, plan)
    if adapter.is_dir():
        start_from(plan, engine, backbone, False, say)
    elif (place / "recipe.yaml").is_file():
        found = find_together(checkpoints, "auto", say)
        if found is None:
            raise FileError(str(place), "has neither an adapter nor a checkpoint", "train it first")
        load(found, engine, backbone.trained, evolving(plan.seated))
        say(f"adapter of {found.name}, from where the run would go on")
    rows = Preparation(plan, folder, say)
    return Opened(plan, make_generator(plan, engine, rows.tokenizer), rows)
