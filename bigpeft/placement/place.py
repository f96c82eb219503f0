"""Methods onto seats: each chosen place gets its method, everything else stays frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel

from bigpeft.errors import RecipeError
from bigpeft.methods import (
    FrozenLinear,
    InputMethod,
    LinearMethod,
    Method,
    Mpc,
    OutputMethod,
    methods,
)
from bigpeft.placement.constrain import constrain, refuse_pattern
from bigpeft.placement.dense import train_dense
from bigpeft.placement.seats import Adapted, AdaptedOutput, input_of, seat_on_input
from bigpeft.placement.targets import matches, options_for, select
from bigpeft.world import stable_seed


@dataclass(frozen=True)
class Placement:
    """What the recipe's method section asks for, as values."""

    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    target_modules: str | Sequence[str] | None = None
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    train_modules: Sequence[str] = ()
    mpc: Mpc | None = None


def place(model: PreTrainedModel, wanted: Placement) -> dict[str, Method]:
    """Seat the method everywhere on the skeleton where it belongs and freeze the rest.

    Returns the name of the seat (of the layer, or `input`) → method. Raises RecipeError for a
    pattern that matches nothing or an override with wrong options, ShapeError for options that a
    layer cannot take.
    """
    method = methods()[wanted.method]
    refuse_pattern(method, wanted.method, wanted.mpc)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    train_dense(model, wanted.train_modules)
    if issubclass(method, InputMethod):
        seat = input_of(model)
        seated: dict[str, Method] = {seat.name: _made(method, seat, wanted)}
        seat_on_input(model, seated[seat.name])  # type: ignore[arg-type]
        return seated
    seated = {}
    paths = {module: path for path, module in model.named_modules()}
    for linear in targets(model, wanted):
        adapter = _made(method, linear, wanted)
        parent, _, leaf = paths[linear].rpartition(".")
        wrapper = AdaptedOutput if issubclass(method, OutputMethod) else Adapted
        setattr(model.get_submodule(parent), leaf, wrapper(linear, adapter))  # type: ignore[arg-type]
        seated[linear.name] = adapter
    method.join(seated)  # type: ignore[arg-type]
    return seated


def targets(model: PreTrainedModel, wanted: Placement) -> list[Any]:
    """The linears that the method goes to. Raises RecipeError as `place` does."""
    method = methods()[wanted.method]
    assert issubclass(method, LinearMethod | OutputMethod)
    linears = {m.name: m for m in model.modules() if isinstance(m, FrozenLinear)}
    patterns = wanted.target_modules or method.default_targets
    _refuse_embedding(model, patterns)
    chosen = select("method.target_modules", patterns, list(linears))
    for pattern in wanted.overrides:
        select("method.overrides", pattern, chosen)
    return [linears[name] for name in chosen]


def count(model: PreTrainedModel, wanted: Placement) -> int:
    """Numbers that the method would train on this skeleton, by formula; nothing is seated."""
    method = methods()[wanted.method]
    seats = [input_of(model)] if issubclass(method, InputMethod) else targets(model, wanted)
    return method.total([(_options(method, seat.name, wanted), seat) for seat in seats])


def _made(method: type[Method], seat: Any, wanted: Placement) -> Method:
    made = method(seat, _options(method, seat.name, wanted))  # type: ignore[call-arg]
    constrain(made, wanted.mpc)
    return made


def _options(method: type[Method], name: str, wanted: Placement) -> object:
    if issubclass(method, InputMethod):
        for key, value in (
            ("method.target_modules", wanted.target_modules),
            ("method.overrides", wanted.overrides),
        ):
            if value:
                raise RecipeError(
                    key, f"means nothing to {wanted.method}: it sits on the input", "remove it"
                )
    try:
        return method.Options(**options_for(name, wanted.options, wanted.overrides))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        overridden = any(matches(pattern, name) for pattern in wanted.overrides)
        where = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"method.overrides ({name})" if overridden else "method",
            f"{where}: {why}" if where else why,
            f"{wanted.method} takes {', '.join(method.Options.model_fields) or 'no options'}",
        ) from error


def _refuse_embedding(model: nn.Module, patterns: str | Sequence[str]) -> None:
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    for name, module in model.named_modules():
        for pattern in wanted:
            if isinstance(module, nn.Embedding) and (
                name == pattern or name.endswith(f".{pattern}")
            ):
                raise RecipeError(
                    "method.target_modules",
                    f"{name} is an embedding, the method sits on linears",
                    f"take {pattern!r} out, or name it in method.train_modules to train it whole",
                )


def start(
    seated: Mapping[str, Method], seed: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Draw the start values of every method, each a function of (seed, seat name) alone.

    They are drawn on the CPU, so that every kind of device and every world size starts alike.
    Parameters get the compute dtype, which ZeRO-3 wants to be one for all that is trained; their
    masters are fp32. Frozen buffers stay fp32.
    """
    for name, adapter in seated.items():
        adapter.to_empty(device="cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed(seed, name))
            adapter.reset()
        adapter.to(device)
        for parameter in adapter.parameters():
            parameter.data = parameter.data.to(dtype)


def starters(
    model: PreTrainedModel, seated: Mapping[str, Method]
) -> dict[tuple[nn.Module, str], Method]:
    """(module, attribute) of every weight that a method starts from → the method."""
    found: dict[tuple[nn.Module, str], Method] = {}
    for module in model.modules():
        if isinstance(module, Adapted) and module.adapter.needs_dense:
            found[module.linear.base, "packed"] = module.adapter  # type: ignore[index]
    for method in seated.values():
        if isinstance(method, InputMethod) and method.needs_dense:
            found[model.get_input_embeddings(), "weight"] = method
    return found
