"""Everything that follows from a recipe and a world: batch, bytes, seats, DeepSpeed's dict."""

from bigpeft.plan.folder import resolve_model_folder
from bigpeft.plan.make import make_plan, outline
from bigpeft.plan.model import (
    bare_model,
    build_model,
    codec_of,
    model_to_pack,
    open_weights,
    placement_for,
    placement_of,
)
from bigpeft.plan.plan import Plan

__all__ = [
    "Plan",
    "bare_model",
    "build_model",
    "codec_of",
    "make_plan",
    "model_to_pack",
    "open_weights",
    "outline",
    "placement_for",
    "placement_of",
    "resolve_model_folder",
]
