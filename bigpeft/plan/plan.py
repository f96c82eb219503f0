"""The plan: every number that follows from a recipe and a world, before anything is paid for.

Only this room reads the recipe; rooms below receive values, rooms above a frozen Plan.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from bigpeft.backbone import WeightSource
from bigpeft.errors import RecipeError
from bigpeft.methods import InputMethod, Method, methods
from bigpeft.placement import place
from bigpeft.plan.blocks import largest_block, persistence_threshold, reduce_bucket
from bigpeft.plan.deepspeed_config import Fragment, Holes, complete, read_fragment
from bigpeft.plan.folder import resolve_model_folder
from bigpeft.plan.memory import HeldBytes, available_bytes, held_bytes
from bigpeft.plan.model import build_model, open_weights, placement_of
from bigpeft.plan.virtual import prepare_input
from bigpeft.recipe import KEPT, Batch, Recipe
from bigpeft.world import World

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Plan:
    """What will run. `model` is the skeleton on meta with the methods seated."""

    recipe: Recipe
    world: World
    folder: Path | None
    model: PreTrainedModel
    seated: dict[str, Method]
    dense_linears: list[str]
    precision: str
    stage: int
    group_size: int
    accumulation_steps: int
    ds_config: dict[str, Any]
    held: HeldBytes

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype."""
        return DTYPES[self.precision]

    @property
    def flash(self) -> bool:
        """Whether attention is of the kind that takes rows of variable length end to end."""
        return "flash" in str(self.model.config._attn_implementation)

    @property
    def learning_rate(self) -> float:
        """The peak: the recipe's, or the method's own."""
        own = methods()[self.recipe.method.name].learning_rate
        return self.recipe.optimizer.learning_rate or own

    def open_weights(self) -> WeightSource:
        """Where the weights will come from. Raises WeightError, the same on every rank."""
        return open_weights(self.recipe, self.folder, self.model)

    @property
    def trainable(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def make_plan(recipe: Recipe, world: World) -> Plan:
    """Derive and check everything. Raises RecipeError, FileError or ShapeError where it cannot run.

    Runs on one laptop for any size of model: no weights, no process group.
    """
    plan = outline(recipe, world)
    _refuse_too_large(plan.held, world)
    return plan


def outline(recipe: Recipe, world: World, weights: bool = True) -> Plan:
    """The plan of a run that may be too large for this machine. Raises as `make_plan` does.

    Without `weights` a model's configuration is enough, and the plan cannot open them.
    """
    _refuse_endless(recipe)
    _refuse_rows_for_nothing(recipe)
    _refuse_the_best_of_nothing(recipe)
    precision = choose_precision(recipe.train.precision)
    fragment = read_fragment(recipe.sharding.fragment)
    accumulation_steps = accumulation(recipe.batch, world.size)
    group_size = choose_group(recipe.sharding.group, fragment, world)
    folder = resolve_model_folder(recipe.model, weights)
    model, dense = build_model(recipe, folder, DTYPES[precision])
    seated = place(model, placement_of(recipe))
    _refuse_packed_prompts(recipe, seated)
    prepare_input(seated.values(), recipe, folder, model)
    block = largest_block(model)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    packed = [p.numel() for p in model.parameters() if p.dtype == torch.uint8]
    ds_config = complete(
        fragment,
        Holes(persistence_threshold(model, trained, packed), block, reduce_bucket(trained)),
        micro_size=recipe.batch.micro_size,
        accumulation_steps=accumulation_steps,
        world_size=world.size,
        precision=precision,
        clip=recipe.optimizer.clip,
    )
    held = held_bytes(
        model,
        seated.values(),
        DTYPES[precision].itemsize,
        fragment.stage,
        group_size,
        world.size,
        block,
    )
    return Plan(
        recipe=recipe,
        world=world,
        folder=folder,
        model=model,
        seated=seated,
        dense_linears=dense,
        precision=precision,
        stage=fragment.stage,
        group_size=group_size,
        accumulation_steps=accumulation_steps,
        ds_config=ds_config,
        held=held,
    )


def _refuse_rows_for_nothing(recipe: Recipe) -> None:
    asked, share = recipe.eval, recipe.data.held_out
    if asked is not None and asked.path == KEPT and not share:
        raise RecipeError("eval.path", f"is {KEPT}, which keeps no row", f"write a share in {KEPT}")
    if share and (asked is None or asked.path != KEPT):
        raise RecipeError(
            KEPT, "keeps rows from training that eval leaves out", "remove eval.path, or this key"
        )


def _refuse_endless(recipe: Recipe) -> None:
    if recipe.data.streaming and recipe.train.steps is None:
        raise RecipeError(
            "train.epochs", "is not known of rows that are streamed", "write train.steps"
        )


def _refuse_the_best_of_nothing(recipe: Recipe) -> None:
    wanted, asked = recipe.checkpoint, recipe.eval
    measured = asked.figures() if asked else []
    key = "checkpoint.best" if wanted.best else "checkpoint.keep_best"
    if wanted.best_by and asked is None:
        raise RecipeError(
            key,
            "needs an eval section, which says what the best is of",
            f"add one, or remove {key.rpartition('.')[2]}",
        )
    if wanted.best_by and wanted.best_by not in measured:
        raise RecipeError(
            key,
            f"is about {wanted.best_by}, which no task of eval measures",
            f"write checkpoint.best: one of {', '.join(measured)}",
        )
    if wanted.export == "best" and wanted.best_by is None:
        raise RecipeError(
            "checkpoint.export",
            "best needs to know what the best is",
            "add checkpoint.best, such as eval_loss",
        )
    if asked and asked.patience and (wanted.best_by or "eval_loss") not in measured:
        raise RecipeError(
            "eval.patience",
            "waits for eval_loss, which no task of eval measures",
            f"write checkpoint.best: one of {', '.join(measured)}",
        )


def _refuse_packed_prompts(recipe: Recipe, seated: dict[str, Method]) -> None:
    if recipe.data.packing and any(isinstance(method, InputMethod) for method in seated.values()):
        raise RecipeError(
            "data.packing",
            f"{recipe.method.name} puts its tokens before a row, and a pack holds several",
            "remove data.packing; data.group_by_length saves padding, too",
        )


def choose_precision(wanted: str) -> str:
    """`auto` is bf16 on an accelerator and fp32 on a CPU, where bf16 is several times slower.

    Raises RecipeError for fp16 on a CPU, which DeepSpeed does not do.
    """
    if wanted == "fp16" and not torch.accelerator.is_available():
        raise RecipeError(
            "train.precision", "fp16 needs an accelerator, there is none", "write bf16 or fp32"
        )
    if wanted != "auto":
        return wanted
    return "bf16" if torch.accelerator.is_available() else "fp32"


def accumulation(batch: Batch, world_size: int) -> int:
    """Micro-batches per rank per optimizer step. Raises RecipeError if they do not divide."""
    per_pass = batch.micro_size * world_size
    steps, rest = divmod(batch.global_size, per_pass)
    if rest:
        nearest = sorted({max(steps, 1) * per_pass, (steps + 1) * per_pass})
        raise RecipeError(
            "batch.global_size",
            f"{batch.global_size} is not a multiple of micro_size {batch.micro_size} "
            f"× world size {world_size}",
            f"write {' or '.join(map(str, nearest))}, or change batch.micro_size",
        )
    return steps


def choose_group(wanted: str | int, fragment: Fragment, world: World) -> int:
    """Ranks that share one copy of the backbone. Raises RecipeError if they do not divide."""
    size = {"world": world.size, "node": world.local_size}.get(str(wanted), wanted)
    assert isinstance(size, int)
    if size != world.size and fragment.stage != 3:
        raise RecipeError(
            "sharding.group",
            f"{wanted} needs ZeRO-3, {fragment.name} is stage {fragment.stage}",
            "write sharding.fragment: zero3, or leave sharding.group at world",
        )
    if world.size % size:
        raise RecipeError(
            "sharding.group",
            f"{wanted} does not divide the world size {world.size}",
            f"write a divisor of {world.size}",
        )
    return size


def _refuse_too_large(held: HeldBytes, world: World) -> None:
    have = available_bytes(world)
    if held.sum > have:
        raise RecipeError(
            "model",
            f"needs {held.sum / 2**30:.1f} GiB on every rank before the first activation, "
            f"{have / 2**30:.1f} GiB are free",
            "use more ranks with sharding.fragment: zero3, fewer model.layers, or a smaller rank",
        )
