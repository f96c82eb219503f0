"""PEFT methods: formulas over an operator, blind to 4-bit, sharding and the trainer.

One file per method in the folder of its family; the file's name is the method's name.
"""

from bigpeft.methods.base import LinearMethod, Method, MethodOptions, Role
from bigpeft.methods.low_rank import Factors
from bigpeft.methods.mpc import Mpc
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat
from bigpeft.methods.seats import (
    InputMethod,
    ModelInput,
    OutputMethod,
    PrefixMethod,
    PromptMethod,
)
from bigpeft.methods.step import Step, StepTensors
from bigpeft.registry import scan

__all__ = [
    "Factors",
    "FrozenLinear",
    "InputMethod",
    "LinearMethod",
    "Method",
    "MethodOptions",
    "ModelInput",
    "Mpc",
    "NoPeftForm",
    "OutputMethod",
    "PeftForm",
    "PeftSeat",
    "PrefixMethod",
    "PromptMethod",
    "Role",
    "Step",
    "StepTensors",
    "linear_methods",
    "methods",
]

_MACHINERY = frozenset(
    {
        "algebra",
        "base",
        "bottleneck",
        "low_rank",
        "mpc",
        "operator",
        "peft_form",
        "residual",
        "scaling",
        "seats",
        "shapes",
        "spectral",
        "step",
        "triplets",
    }
)


def methods() -> dict[str, type[Method]]:
    """Name → class of every method."""
    import bigpeft.methods as package

    return scan(package, Method, _MACHINERY)


def linear_methods() -> dict[str, type[LinearMethod]]:
    """Name → class of every method that sits on a linear."""
    return {name: m for name, m in methods().items() if issubclass(m, LinearMethod)}
