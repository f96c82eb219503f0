"""How many target tokens are the likeliest one at their place."""

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, ratio


class TokenAccuracy(Metric):
    """Share of target tokens, teacher-forced; the interval is normal over rows."""

    @staticmethod
    def of(measured: Measured) -> Figure:
        return ratio(measured.hits, measured.targets).within(0.0, 1.0)
