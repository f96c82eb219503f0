"""The contract of a method: its options, its seat, its parameters, its merge.

A method on a linear computes y = method(linear, x) without bias from products `linear.base(...)`
and small tensors of its own, and knows the dense weight that this amounts to: `merge`. The two
must agree, values and gradients, for every shape and dtype; one test holds all methods to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bigpeft.errors import RecipeError
from bigpeft.methods.operator import FrozenLinear


class MethodOptions(BaseModel):
    """Base of a method's options: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Role:
    """How the optimizer treats one parameter of a method.

    `learning_rate_scale` multiplies `optimizer.learning_rate`; `decay` says whether weight decay
    applies: never to scales, which it would pull away from what they mean.
    """

    name: str
    learning_rate_scale: float = 1.0
    decay: bool = True


class LinearMethod(nn.Module, ABC):
    """A method that sits on one frozen linear.

    Subclasses nest their `Options`, create parameters in `__init__` with dtype fp32 on
    `linear.device`, and draw random starts in `reset`, never in `__init__`: the skeleton is built
    on the meta device.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    family: ClassVar[str]
    source: ClassVar[str]
    needs_dense: ClassVar[bool] = False
    mergeable: ClassVar[bool] = True
    supports_mpc: ClassVar[bool] = False
    default_targets: ClassVar[str | Sequence[str]] = "all-linear"
    evolving: ClassVar[tuple[str, ...]] = ()
    """Buffers that `after_step` changes: checkpoints keep them, the others follow from W."""

    def reset(self) -> None:
        """Draw the start values; the global random state was seeded for this seat before."""
        for tensor in (*self.parameters(), *self.buffers()):
            nn.init.zeros_(tensor)

    def start(self, weight: Tensor) -> Tensor:
        """Start from dense W (out_features, in_features) in fp32, called once if `needs_dense`.

        Returns the weight to be frozen: W itself, or the residual that the method leaves. Frozen
        tensors of a method are persistent buffers; what `start` and `measure` write into them and
        into parameters reaches all ranks.
        """
        return weight

    def measure(self, weight: Tensor) -> None:
        """See the frozen weight in fp32 as `base` multiplies with it: decoded, if it was encoded.

        Called once after `start`, if `needs_dense`.
        """

    @abstractmethod
    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""

    def merge(self, weight: Tensor) -> Tensor:
        """Frozen dense W (out_features, in_features) → dense W', same dtype; pure, differentiable.

        Raises RecipeError where there is no W': then `mergeable` is False.
        """
        raise RecipeError(
            "method.name",
            f"{type(self).__name__} computes what no weight can hold, so it does not merge",
            "keep the adapter beside the base",
        )

    def penalty(self) -> Tensor | None:
        """A term of the loss, added once per optimizer step; None where there is none."""
        return None

    def role(self, parameter: str) -> Role:
        """The optimizer's treatment of the parameter with this name."""
        return Role(parameter)

    def after_step(self, step: int) -> None:
        """Called after optimizer step number `step` (from 1), the same on all ranks."""

    @classmethod
    @abstractmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """Trainable numbers on this linear, by formula."""
