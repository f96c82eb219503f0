"""Trackers: services that show the curves of many runs, each through its own library.

One file per tracker, found by a folder scan. A tracker lives in a process of its own and follows
metrics.jsonl; the training neither waits for it nor dies of it.
"""

from bigpeft.registry import scan
from bigpeft.trackers.base import Run, Tracker

__all__ = ["Run", "Tracker", "trackers"]

_MACHINERY = frozenset({"base", "follow"})


def trackers() -> dict[str, type[Tracker]]:
    """Name → class of every tracker. Imports none of their libraries."""
    import bigpeft.trackers as package

    return scan(package, Tracker, _MACHINERY)
