"""How often the right choice is the likeliest at the token where the choices part."""

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, share


class Accuracy(Metric):
    """Share of rows, from the pass that measures the loss: choices cost nothing more."""

    needs = "parting"

    @staticmethod
    def of(measured: Measured) -> Figure:
        assert measured.parting is not None
        return share(measured.parting)
