"""The contract of a method: its options, its parameters, its part in a step, its merge.

A method sits on a linear, on what a linear gives, or on the model's input (`seats`). On a linear it
computes y = method(linear, x) without bias from products `linear.base(...)` and small tensors of
its own, and knows the dense weight that this amounts to: `merge`. The two must agree, values and
gradients, for every shape and dtype; one test holds all methods to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bigpeft.errors import RecipeError
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat
from bigpeft.methods.step import Step


class MethodOptions(BaseModel):
    """Base of a method's options: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def changed(self, keys: Iterable[str]) -> list[str]:
        """Those of these options whose values are not the defaults, sorted."""
        fields = type(self).model_fields
        return sorted(key for key in keys if getattr(self, key) != fields[key].default)


@dataclass(frozen=True)
class Role:
    """How the optimizer treats one parameter of a method.

    `learning_rate_scale` multiplies `optimizer.learning_rate`; `decay` says whether weight decay
    applies: never to scales, which it would pull away from what they mean.
    """

    name: str
    learning_rate_scale: float = 1.0
    decay: bool = True


class Method(nn.Module, ABC):
    """What all methods have, wherever they sit.

    Subclasses nest their `Options`, create parameters in `__init__` with dtype fp32 on the seat's
    device, and draw random starts in `reset`, never in `__init__`: the skeleton is built on the
    meta device.
    """

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    family: ClassVar[str]
    source: ClassVar[str]
    moves: ClassVar[str]
    """What of W it can change, and what it cannot."""
    when: ClassVar[str]
    """When to choose it."""
    extra: ClassVar[str] = "none"
    """What it asks of the base beyond one product per token."""
    learning_rate: ClassVar[float] = 2e-4
    """Peak where the recipe names none, before `role` scales it."""
    learning_rate_source: ClassVar[str] = "LoRA over 4 bits, arXiv 2305.14314"
    needs_dense: bool = False
    mergeable: bool = True
    mpc_patterns: ClassVar[str] = ""
    """Letters of the matrix pattern constraints that it can take."""
    hf_peft: ClassVar[str] = "none"
    """The type of HF peft that computes the same, with what there is to say of it."""
    evolving: ClassVar[tuple[str, ...]] = ()
    """Buffers that steps change: checkpoints keep them, the others follow from W."""

    def reset(self) -> None:
        """Draw the start values; the global random state was seeded for this seat before."""
        for tensor in (*self.parameters(), *self.buffers()):
            nn.init.zeros_(tensor)

    def start(self, weight: Tensor) -> Tensor:
        """Start from the dense weight of the seat, called once if `needs_dense`.

        Returns the weight to be frozen: itself, or the residual that the method leaves. Frozen
        tensors of a method are persistent buffers; what `start` and `measure` write into them and
        into parameters reaches all ranks.
        """
        return weight

    @property
    def penalised(self) -> bool:
        """Whether this seat has a penalty."""
        return False

    def penalty(self) -> Tensor | None:
        """A term of the loss, at least fp32; None unless `penalised`.

        The mean over all seats is added to the loss once per optimizer step, computed outside of
        the model's forward pass from parameters that all ranks hold alike.
        """
        return None

    def remark(self) -> str | None:
        """What its user should be told after loading, such as a hazard of these options."""
        return None

    def role(self, parameter: str) -> Role:
        """The optimizer's treatment of the parameter with this name."""
        return Role(parameter)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """What HF peft has that computes the same at this seat, the best first.

        Raises NoPeftForm where there is nothing.
        """
        raise NoPeftForm("computes what no adapter of HF peft does")

    @classmethod
    def join(cls, seats: Mapping[str, Self]) -> None:
        """Let seats have parameters in common: called once, when all seats of a model are made."""

    @classmethod
    def before_step(cls, seats: Sequence[Self], step: Step) -> None:
        """Called with all seats of the model when the gradients of a step are complete."""

    @classmethod
    def after_step(cls, seats: Sequence[Self], step: Step) -> None:
        """Called with all seats of the model after the optimizer, the same on all ranks."""

    @classmethod
    @abstractmethod
    def count(cls, options: Any, seat: Any) -> int:
        """Trainable numbers on this seat, by formula."""

    @classmethod
    def total(cls, seats: Sequence[tuple[Any, Any]]) -> int:
        """Trainable numbers on all seats of a model, each with its options."""
        return sum(cls.count(options, seat) for options, seat in seats)


class LinearMethod(Method):
    """A method that sits on one frozen linear, and is constructed as `cls(linear, options)`."""

    default_targets: ClassVar[str | Sequence[str]] = "all-linear"
    edits_base: bool = False
    """Whether `start` returns another weight than it gets."""
    by_rows: bool = False
    """Whether a row of W' follows from the same row of W: then `merge_rows` makes a few of them."""

    def start(self, weight: Tensor) -> Tensor:
        """As above, from W (out_features, in_features) in fp32."""
        return weight

    @property
    def starts_from_dense(self) -> bool:
        """Whether `start` looks at W. A method that only measures is served by the codes of W."""
        return self.needs_dense and type(self).start is not LinearMethod.start

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

    def merge_rows(self, weight: Tensor, rows: slice) -> Tensor:
        """`merge` of these rows of W alone, (rows, in_features), same dtype; only if `by_rows`."""
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def count(cls, options: Any, seat: FrozenLinear) -> int:
        """Trainable numbers on this linear, by formula."""
