"""PEFT methods: formulas over an operator, blind to 4-bit, sharding and the trainer.

One file per method in the folder of its family; the file's name is the method's name.
"""

from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.registry import scan

__all__ = ["FrozenLinear", "LinearMethod", "MethodOptions", "Role", "linear_methods"]

_MACHINERY = frozenset(
    {"algebra", "base", "low_rank", "operator", "residual", "scaling", "shapes", "spectral"}
)


def linear_methods() -> dict[str, type[LinearMethod]]:
    """Name → class of every method that sits on a linear."""
    import bigpeft.methods as package

    return scan(package, LinearMethod, _MACHINERY)
