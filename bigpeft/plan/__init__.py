"""Everything that follows from a recipe and a world: batch, bytes, seats, DeepSpeed's dict."""

from bigpeft.plan.model import bare_model, placement_for
from bigpeft.plan.plan import Plan, make_plan

__all__ = ["Plan", "bare_model", "make_plan", "placement_for"]
