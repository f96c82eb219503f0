"""How often the generated answer is the expected one."""

from bigpeft.metrics.base import Measured, Metric
from bigpeft.metrics.figure import Figure, share


class ExactMatch(Metric):
    """Share of rows whose greedy answer, or what a pattern finds in it, equals the row's."""

    needs = "answers"

    @staticmethod
    def of(measured: Measured) -> Figure:
        assert measured.answers is not None
        return share(measured.answers)
