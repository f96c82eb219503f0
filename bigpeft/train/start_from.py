"""A run that starts from the numbers of an adapter: another run's, or one that was imported."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from bigpeft.checkpoint import training_state
from bigpeft.checkpoint.adapter import read_adapter, read_base
from bigpeft.checkpoint.engine import Engine
from bigpeft.checkpoint.state import whole_shape
from bigpeft.errors import FileError, RecipeError
from bigpeft.placement import frozen
from bigpeft.plan import Plan
from bigpeft.recipe import MethodSection
from bigpeft.train.backbone import Backbone


def start_from(
    plan: Plan,
    engine: Engine,
    backbone: Backbone,
    resuming: bool,
    say: Callable[[str], None],
) -> None:
    """Set masters, live copies and what methods keep frozen to those of `method.start_from`.

    Collective over all ranks. A run that resumes has its numbers already. Raises RecipeError for an
    adapter of another method, FileError for one of other layers, shapes or base, before anything
    changes.
    """
    section: Any = plan.recipe.method
    if section.start_from is None or resuming:
        return
    folder = Path(section.start_from)
    tensors, described = read_adapter(folder)
    _refuse_another_method(folder, described["method"], section.name)
    belongs_to = read_base(folder)
    if belongs_to is not None:
        belongs_to.refuse_another(str(folder), backbone.base, FileError)
    buffers = frozen(plan.seated)
    _refuse_misfits(
        folder,
        tensors,
        {t.name: tuple(whole_shape(t.parameter)) for t in backbone.trained}
        | {name: tuple(buffer.shape) for name, buffer in buffers.items()},
    )
    state = training_state(engine)
    for item in backbone.trained:
        state.write(item.parameter, None, tensors[item.name].to(engine.device))
    for name, buffer in buffers.items():
        buffer.copy_(tensors[name])
    say(f"starts from {folder}{_differing(described['method'], section)}")


def _differing(made: dict[str, Any], section: Any) -> str:
    """The options that the adapter was made with, where the recipe has others."""
    shared = set(MethodSection.model_fields)
    now = {k: v for k, v in section.model_dump(mode="json").items() if k not in shared}
    other = [f"{key} {made[key]}" for key in now if key in made and made[key] != now[key]]
    return f", which was made with {', '.join(other)}" if other else ""


def _refuse_another_method(folder: Path, made: dict[str, Any], name: str) -> None:
    if made.get("name") != name:
        raise RecipeError(
            "method.start_from",
            f"{folder} holds an adapter of {made.get('name')}, the recipe says {name}",
            f"write method.name: {made.get('name')}, or take another adapter",
        )


def _refuse_misfits(
    folder: Path, tensors: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]
) -> None:
    fix = "take target_modules and sizes from the adapter's adapter.json, or another adapter"
    for name, shape in wanted.items():
        found = tensors.get(name)
        if found is None:
            raise FileError(str(folder), f"lacks {name}, which the recipe wants", fix)
        if tuple(found.shape) != shape:
            why = f"has {name} of shape {tuple(found.shape)}, the recipe wants {shape}"
            raise FileError(str(folder), why, fix)
    more = sorted(tensors.keys() - wanted.keys())
    if more:
        raise FileError(
            str(folder), f"holds {more[0]}, which the recipe has no place for ({len(more)})", fix
        )
