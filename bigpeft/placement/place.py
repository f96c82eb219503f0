"""Methods onto seats: each chosen linear is wrapped, everything else stays frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bigpeft.errors import RecipeError
from bigpeft.methods import FrozenLinear, LinearMethod, linear_methods
from bigpeft.placement.targets import options_for, select
from bigpeft.world import stable_seed

ADAPTER = "adapter"


class Adapted(nn.Module):
    """A frozen linear and the method that sits on it: y = adapter(linear, x) + bias."""

    def __init__(self, linear: FrozenLinear, adapter: LinearMethod) -> None:
        super().__init__()
        self.linear = linear
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype."""
        y = self.adapter(self.linear, x)
        bias = getattr(self.linear, "bias", None)
        return y if bias is None else y + bias.to(y.dtype)


@dataclass(frozen=True)
class Placement:
    """What the recipe's method section asks for, as values."""

    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    target_modules: str | Sequence[str] | None = None
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    train_modules: Sequence[str] = ()


def place(model: nn.Module, wanted: Placement) -> dict[str, LinearMethod]:
    """Seat the method on every target of the skeleton and freeze the rest.

    Returns layer name → method. Raises RecipeError for a pattern that matches nothing or an
    override with wrong options, ShapeError for options that a layer cannot take.
    """
    method = linear_methods()[wanted.method]
    linears = {
        module.name: (path, module)
        for path, module in model.named_modules()
        if isinstance(module, FrozenLinear)
    }
    patterns = wanted.target_modules or method.default_targets
    targets = select("method.target_modules", patterns, list(linears))
    for pattern in wanted.overrides:
        select("method.overrides", pattern, targets)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    train_dense(model, wanted.train_modules)
    seated = {}
    for name in targets:
        path, linear = linears[name]
        options = _options(method, name, wanted)
        adapter = method(linear, options)  # type: ignore[call-arg]
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, Adapted(linear, adapter))
        seated[name] = adapter
    return seated


def _options(method: type[LinearMethod], name: str, wanted: Placement) -> object:
    try:
        return method.Options(**options_for(name, wanted.options, wanted.overrides))  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"method.overrides ({name})",
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            f"{wanted.method} takes {', '.join(method.Options.model_fields) or 'no options'}",
        ) from error


def train_dense(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Unfreeze small dense modules: norms, the output head. Returns their names.

    Raises RecipeError for a pattern that matches nothing, or a packed linear.
    """
    if not patterns:
        return []
    candidates = {
        name: module
        for name, module in model.named_modules()
        if name and any(p.is_floating_point() for p in module.parameters(recurse=False))
    }
    packed = [m.name for m in model.modules() if isinstance(m, FrozenLinear)]
    dense = [name for name in candidates if name not in packed]
    for pattern in patterns:
        if pattern in {end for name in packed for end in (name, name.rpartition(".")[2])}:
            raise RecipeError(
                "method.train_modules",
                f"{pattern!r} is packed and cannot be trained in full",
                "name it in method.target_modules, or set model.weights: none",
            )
    chosen = select("method.train_modules", list(patterns), dense)
    for name in chosen:
        for parameter in candidates[name].parameters(recurse=False):
            parameter.requires_grad_(True)
    return chosen


def start(
    seated: Mapping[str, LinearMethod], seed: int, device: torch.device, dtype: torch.dtype
) -> None:
    """Draw the start values of every method, each a function of (seed, layer name) alone.

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
