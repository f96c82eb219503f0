"""The contract of a metric: what it needs to know of each row, and the figure it makes of that."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bigpeft.metrics.figure import Figure

Needs = Literal["tokens", "parting", "options", "answers"]


@dataclass(frozen=True)
class Options:
    """Every option of every row as a whole answer; rows with fewer are filled with −∞ and 1.

    `likelihood` fp64 (rows, options) log p in nats, `tokens` fp64 (rows, options) how many tokens
    that is the sum of, `right` int64 (rows,) the right one.
    """

    likelihood: Tensor
    tokens: Tensor
    right: Tensor


@dataclass(frozen=True)
class Measured:
    """What a model did with the rows of one task; what no metric needs is None.

    `loss` fp64 (rows,) Σ −log p of the target tokens, `targets` fp64 (rows,) how many they are,
    `hits` fp64 (rows,) how many of them were the likeliest token. `parting` and `answers` bool
    (rows,): the right choice was likeliest where the choices part; the generated answer was right.
    """

    loss: Tensor
    targets: Tensor
    hits: Tensor
    parting: Tensor | None = None
    options: Options | None = None
    answers: Tensor | None = None


class Metric(ABC):
    """One figure of a task. `needs` says which part of `Measured` it reads."""

    needs: ClassVar[Needs] = "tokens"
    lower_is_better: ClassVar[bool] = False

    @staticmethod
    @abstractmethod
    def of(measured: Measured) -> Figure:
        """The figure over all rows, which are one or more."""
