"""Everything that follows from a recipe and a world: batch, bytes, seats, DeepSpeed's dict."""

from bigpeft.plan.plan import Plan, make_plan

__all__ = ["Plan", "make_plan"]
