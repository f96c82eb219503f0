"""Where methods sit: patterns → seats, wrapped linears, the names of what is trained."""

from bigpeft.placement.place import Placement, count, place, start, starters
from bigpeft.placement.seats import Adapted, position_limit
from bigpeft.placement.state import Trained, evolving, optimizer_groups, trained
from bigpeft.placement.targets import matches, select

__all__ = [
    "Adapted",
    "Placement",
    "Trained",
    "count",
    "evolving",
    "matches",
    "optimizer_groups",
    "place",
    "position_limit",
    "select",
    "start",
    "starters",
    "trained",
]
