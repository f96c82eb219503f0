"""An optimizer step, as far as methods take part in it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


class StepTensors(Protocol):
    """Whole fp32 tensors of trained parameters, however they are cut.

    Every call is collective: all ranks make the same calls in the same order.
    """

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """Of the loss of the global batch, in the parameter's shape; before the step alone."""
        ...

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """The master (key None) or a moment of Adam: `exp_avg`, `exp_avg_sq`."""
        ...

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        """Set it; writing a master also sets the copy that the model computes with."""
        ...


@dataclass(frozen=True)
class Step:
    """Optimizer step `number` (from 1) of `total`."""

    number: int
    total: int
    tensors: StepTensors
