"""Where methods sit: patterns → seats, wrapped linears, the names of what is trained."""

from bigpeft.placement.place import Placement, count, place, start, starters
from bigpeft.placement.prompt import embedding_scale
from bigpeft.placement.seats import Adapted, position_limit
from bigpeft.placement.state import Trained, evolving, frozen, optimizer_groups, trained
from bigpeft.placement.targets import matches, select

__all__ = [
    "Adapted",
    "Placement",
    "Trained",
    "count",
    "embedding_scale",
    "evolving",
    "frozen",
    "matches",
    "optimizer_groups",
    "place",
    "position_limit",
    "select",
    "start",
    "starters",
    "trained",
]
