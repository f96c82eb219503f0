"""Mean −log p of the target tokens, nats per token."""

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, ratio


class Loss(Metric):
    """Nats per target token; the interval is normal over rows."""

    lower_is_better = True

    @staticmethod
    def of(measured: Measured) -> Figure:
        return ratio(measured.loss, measured.targets)
