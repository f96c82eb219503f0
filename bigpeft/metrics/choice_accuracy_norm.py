"""The same by log p per token, so that long options are not held to be unlikely."""

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, share


class ChoiceAccuracyNorm(Metric):
    """Share of rows whose right option has the largest mean log p of its tokens."""

    needs = "options"

    @staticmethod
    def of(measured: Measured) -> Figure:
        options = measured.options
        assert options is not None
        return share((options.likelihood / options.tokens).argmax(1) == options.right)
