"""The part of methods in optimizer steps: a penalty, a look at gradients, a change after."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bigpeft.checkpoint import training_state
from bigpeft.checkpoint.engine import Engine
from bigpeft.methods import Method, Step
from bigpeft.train.engine import gather


class Adapters:
    """All seats of a model, which have one method."""

    def __init__(self, seated: Mapping[str, Method], engine: Engine, total_steps: int) -> None:
        self._names, self._seats = list(seated), list(seated.values())
        self._method = type(self._seats[0])
        self._tensors = training_state(engine)
        self._total = total_steps

    def penalty(self) -> Tensor | None:
        """Mean of the seats' penalties, differentiable; None where none has one.

        To be called after the forward pass that its backward goes with: autograd takes the latest
        first, so the factors are read before ZeRO-3 lets go of anything.
        """
        held = [seat for seat in self._seats if seat.penalised]
        gather([parameter for seat in held for parameter in seat.parameters()])
        penalties = [p for p in (seat.penalty() for seat in held) if p is not None]
        return torch.stack(penalties).mean() if penalties else None

    def before_step(self, number: int) -> None:
        """Gradients of step `number` (from 1) are complete."""
        self._method.before_step(self._seats, self._step(number))

    def after_step(self, number: int) -> None:
        """The optimizer has made step `number`."""
        self._method.after_step(self._seats, self._step(number))

    def remarks(self) -> list[str]:
        """What users should know about the start of these seats, each once."""
        said: dict[str, list[str]] = {}
        for name, seat in zip(self._names, self._seats, strict=True):
            if remark := seat.remark():
                said.setdefault(remark, []).append(name)
        return [f"{names[0]}{_more(len(names) - 1)}: {remark}" for remark, names in said.items()]

    def _step(self, number: int) -> Step:
        return Step(number, self._total, self._tensors)


def _more(count: int) -> str:
    return f" and {count} more" if count else ""
