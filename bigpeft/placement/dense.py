"""Small dense modules that are trained in full beside a method."""

from collections.abc import Sequence

from torch import nn

from bigpeft.errors import RecipeError
from bigpeft.methods import FrozenLinear
from bigpeft.placement.targets import select


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
