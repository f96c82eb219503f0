"""exp of the loss: among how many tokens the model is as unsure as among equally likely ones."""

import math

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, ratio


class Perplexity(Metric):
    """exp of the loss and of its interval's ends."""

    lower_is_better = True

    @staticmethod
    def of(measured: Measured) -> Figure:
        loss = ratio(measured.loss, measured.targets)
        return Figure(_exp(loss.value), _exp(loss.low), _exp(loss.high), loss.rows)


def _exp(nats: float) -> float:
    """Infinity where the number is too large for a float."""
    return math.exp(nats) if nats < 709 else math.inf
