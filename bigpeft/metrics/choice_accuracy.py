"""How often the right option is the likeliest as a whole answer."""

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, share


class ChoiceAccuracy(Metric):
    """Share of rows whose right option has the largest log p, all its tokens together."""

    needs = "options"

    @staticmethod
    def of(measured: Measured) -> Figure:
        options = measured.options
        assert options is not None
        return share(options.likelihood.argmax(1) == options.right)
