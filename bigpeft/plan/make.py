"""From a recipe and a world to a plan, or to what has to change first."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from bigpeft.errors import RecipeError
from bigpeft.methods import Method
from bigpeft.placement import place
from bigpeft.plan.blocks import largest_block, persistence_threshold, reduce_bucket
from bigpeft.plan.contradictions import refuse_contradictions, refuse_packed_prompts
from bigpeft.plan.deepspeed_config import Holes, complete, read_fragment
from bigpeft.plan.folder import resolve_model_folder
from bigpeft.plan.fragment_rules import offloads
from bigpeft.plan.group import choose_group, second_copy, smallest_group
from bigpeft.plan.memory import HeldBytes, available_bytes, held_bytes, total_bytes
from bigpeft.plan.model import build_model, placement_of
from bigpeft.plan.plan import DTYPES, Plan
from bigpeft.plan.virtual import prepare_input
from bigpeft.recipe import Batch, Recipe
from bigpeft.world import World


def make_plan(recipe: Recipe, world: World) -> Plan:
    """Derive and check everything. Raises RecipeError, FileError or ShapeError where it cannot run.

    Runs on one laptop for any size of model: no weights, no process group.
    """
    plan = outline(recipe, world, memory=total_bytes(world))
    _refuse_too_large(plan)
    return plan


def outline(recipe: Recipe, world: World, weights: bool = True, memory: int | None = None) -> Plan:
    """The plan of a run that may be too large for this machine. Raises as `make_plan` does.

    Without `weights` a model's configuration is enough, and the plan cannot open them. `memory`
    bytes of a rank are what `sharding.group: auto` has to fit; without it the world shares.
    """
    refuse_contradictions(recipe)
    precision = choose_precision(recipe.train.precision)
    fragment = read_fragment(recipe.sharding.fragment)
    accumulation_steps = accumulation(recipe.batch, world.size)
    group_size = choose_group(recipe.sharding.group, fragment, world)
    folder = resolve_model_folder(recipe.model, weights)
    model, dense = build_model(recipe, folder, DTYPES[precision])
    seated = place(model, placement_of(recipe))
    refuse_packed_prompts(recipe, seated)
    prepare_input(seated.values(), recipe, folder, model)
    block = largest_block(model)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    packed = [p.numel() for p in model.parameters() if p.dtype == torch.uint8]
    ds_config = complete(
        fragment,
        Holes(
            persistence_threshold(model, trained, packed),
            block,
            reduce_bucket(trained),
            node=world.local_size if world.local_size < world.size else 1,
        ),
        micro_size=recipe.batch.micro_size,
        accumulation_steps=accumulation_steps,
        world_size=world.size,
        precision=precision,
        clip=recipe.optimizer.clip,
    )
    second = second_copy(ds_config["zero_optimization"], recipe.sharding.group, world)
    plan = Plan(
        recipe=recipe,
        world=world,
        folder=folder,
        model=model,
        seated=seated,
        dense_linears=dense,
        precision=precision,
        stage=fragment.stage,
        group_size=group_size,
        second_copy=second,
        group_reason=f"sharding.group is {recipe.sharding.group}",
        accumulation_steps=accumulation_steps,
        ds_config=ds_config,
        held=_held(model, seated, precision, fragment.stage, (group_size, second), world, block),
    )
    if recipe.sharding.group != "auto" or memory is None:
        return plan
    size, reason = smallest_group(plan, memory)
    held = _held(model, seated, precision, fragment.stage, (size, 0), world, block)
    return replace(plan, group_size=size, group_reason=reason, held=held)


def _held(
    model: PreTrainedModel,
    seated: Mapping[str, Method],
    precision: str,
    stage: int,
    copies: tuple[int, int],
    world: World,
    block: int,
) -> HeldBytes:
    itemsize = DTYPES[precision].itemsize
    return held_bytes(model, seated.values(), itemsize, stage, copies, world.size, block)


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


def _refuse_too_large(plan: Plan) -> None:
    have, held = available_bytes(plan.world), plan.held
    zero = plan.ds_config["zero_optimization"]
    elsewhere = 0  # on a CPU the host's memory is the rank's own
    if torch.accelerator.is_available():
        elsewhere += (held.packed + held.dense) * offloads(zero, "offload_param")
        elsewhere += (held.gradients + held.optimizer) * offloads(zero, "offload_optimizer")
    needed = held.sum - elsewhere
    if needed > have:
        raise RecipeError(
            "model",
            f"needs {needed / 2**30:.1f} GiB on every rank before the first activation, "
            f"{have / 2**30:.1f} GiB are free",
            "use more ranks with sharding.fragment: zero3, fewer model.layers, or a smaller rank",
        )
