"""A checkpoint of DeepSpeed's own format becomes the first checkpoint of a run folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bigpeft.backbone import identify
from bigpeft.checkpoint import Meta
from bigpeft.checkpoint.deepspeed_format import DeepSpeedCheckpoint, open_deepspeed
from bigpeft.checkpoint.peft_names import as_in_files, factor_of
from bigpeft.checkpoint.save_whole import save_whole
from bigpeft.errors import CheckpointError, FileError
from bigpeft.placement import evolving, starters, trained
from bigpeft.plan import Plan, outline
from bigpeft.recipe import Recipe
from bigpeft.recipe.sections import Sharding
from bigpeft.train.backbone import open_backbone, seen_by
from bigpeft.train.folder import RUN, open_run, versions, write_json
from bigpeft.train.saving import identity
from bigpeft.world import World

_PEFT_LORA = ("lora", "rslora", "lora_plus")
"""Methods whose factors are those of peft's LoRA, trained both, over a base that stays."""


@dataclass(frozen=True)
class Converted:
    """What was written, and what it came from."""

    folder: Path
    parameters: int
    ranks: int
    updates: int
    precision: str


def convert(folder: Path, recipe: Recipe, say: Callable[[str], None]) -> Converted:
    """Write RUN/checkpoints/step-N, from which `checkpoint.resume=auto` goes on on any world.

    This unpickles the files in `folder`. Raises CheckpointError for files that are damaged, of
    another kind, or do not hold what the recipe trains; FileError for a run folder in use. Then
    nothing is written.
    """
    run = Path(recipe.run.folder)
    _refuse_used(run)
    found = open_deepspeed(folder, say)
    anywhere = recipe.model_copy(update={"sharding": Sharding()})  # type: ignore[call-arg]
    plan = outline(anywhere, World())
    _refuse_guessed_precision(plan, found)
    _refuse_restarted_count(found)
    names = _matched(plan, found)
    state = _evolved(plan, found)
    source = open_backbone(plan, say)
    started_from = seen_by(starters(plan.model, plan.seated).values(), source)
    meta = Meta(
        step=found.step,
        rows=found.step * recipe.batch.global_size,
        updates=found.updates,
        world_size=found.world_size,
        identity=identity(plan, started_from),
        parameters={name: list(found.shapes[theirs]) for name, theirs in names.items()},
        base=identify(plan.model, source).as_json(),
        recipe=recipe.model_dump(mode="json"),
        versions=versions(),
    )
    with open_run(run, False, World()):
        _refuse_used(run)
        written = save_whole(
            run / "checkpoints", lambda name, key: found.read(names[name], key), state, meta
        )
        if recipe.train.steps is not None:
            write_json(run / RUN, {"steps": recipe.train.steps})
    return Converted(written, len(names), found.world_size, found.updates, plan.precision)


def _refuse_used(run: Path) -> None:
    if (run / "metrics.jsonl").exists() or any((run / "checkpoints").glob("step-*")):
        raise FileError(
            f"run.folder: {run}", "holds a run already", "choose another run.folder for this one"
        )


def _refuse_guessed_precision(plan: Plan, found: DeepSpeedCheckpoint) -> None:
    if plan.recipe.train.precision == "auto" and (plan.precision == "bf16") != found.bf16:
        raise CheckpointError(
            str(found.folder),
            f"is {'' if found.bf16 else 'not '}of a bf16 run, and train.precision: auto means "
            f"{plan.precision} on this machine",
            "write the train.precision of the run that goes on",
        )


def _refuse_restarted_count(found: DeepSpeedCheckpoint) -> None:
    if found.updates > found.step:
        raise _misfit(
            found,
            f"counts {found.step} steps, but Adam has made {found.updates} updates, so nobody "
            "knows which rows come next",
            "save with an engine that has counted from the first step",
        )


def _matched(plan: Plan, found: DeepSpeedCheckpoint) -> dict[str, str]:
    """What the recipe trains → its name in the checkpoint. Raises CheckpointError for a misfit."""
    fix = "take method and sizes of the recipe from the run that saved it"
    wanted = {item.name: item.parameter for item in trained(plan.model, plan.seated)}
    theirs: dict[str, str] = {}
    for name, ours in _renamed(plan, found, wanted).items():
        if ours not in wanted:
            raise _misfit(found, f"holds {name}, which the recipe does not train", fix)
        if ours in theirs:
            raise _misfit(found, f"holds {theirs[ours]} and {name}, two adapters", fix)
        theirs[ours] = name
    for name, parameter in wanted.items():
        if name not in theirs:
            raise _misfit(found, f"lacks {name}, which the recipe trains", fix)
        shape = tuple(found.shapes[theirs[name]])
        if shape != tuple(parameter.shape):
            why = f"has {name} of shape {shape}, the recipe wants {tuple(parameter.shape)}"
            raise _misfit(found, why, fix)
    return {name: theirs[name] for name in wanted}


def _renamed(
    plan: Plan, found: DeepSpeedCheckpoint, wanted: Mapping[str, Tensor]
) -> dict[str, str]:
    """The checkpoint's names → ours; a name that nothing is known of stays."""
    known = {id(parameter): name for name, parameter in wanted.items()}
    own = {n: known[id(p)] for n, p in plan.model.named_parameters() if id(p) in known}
    renamed: dict[str, str] = {}
    for name in found.shapes:
        bare = name.removeprefix("module.")
        factor = factor_of(as_in_files(bare))
        if factor and plan.recipe.method.name not in _PEFT_LORA:
            raise _misfit(
                found,
                f"holds {name}, a factor of HF peft's LoRA, which is not {plan.recipe.method.name}",
                f"write method.name: {' or '.join(_PEFT_LORA)}, which compute the same",
            )
        renamed[name] = ".".join(factor) if factor else own.get(bare, bare)
    return renamed


def _evolved(plan: Plan, found: DeepSpeedCheckpoint) -> dict[str, Tensor]:
    """What the method has decided so far, of the buffers that DeepSpeed saves with the model."""
    names = {id(buffer): name for name, buffer in plan.model.named_buffers()}
    state: dict[str, Tensor] = {}
    for name, buffer in evolving(plan.seated).items():
        saved = found.buffers.get(names[id(buffer)])
        if saved is None or saved.shape != buffer.shape:
            raise _misfit(
                found,
                f"lacks {name}, which {plan.recipe.method.name} changes while it trains",
                "let the run that saved it go on with DeepSpeed",
            )
        state[name] = saved
    return state


def _misfit(found: DeepSpeedCheckpoint, why: str, fix: str) -> CheckpointError:
    return CheckpointError(str(found.folder), why, fix)
