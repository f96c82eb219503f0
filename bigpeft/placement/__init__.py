"""Where methods sit: patterns → seats, wrapped linears, the names of what is trained."""

from bigpeft.placement.place import Adapted, Placement, place, start
from bigpeft.placement.state import Trained, optimizer_groups, trained
from bigpeft.placement.targets import matches, select

__all__ = [
    "Adapted",
    "Placement",
    "Trained",
    "matches",
    "optimizer_groups",
    "place",
    "select",
    "start",
    "trained",
]
