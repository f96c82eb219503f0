"""Checkpoints: sharded safetensors through torch DCP, a manifest, one rename. No pickle."""

from bigpeft.checkpoint.keeping import Keep, complete, step_of
from bigpeft.checkpoint.load import best_together, find, find_together, load, loss_scale
from bigpeft.checkpoint.manifest import verify
from bigpeft.checkpoint.meta import Meta, read_meta
from bigpeft.checkpoint.snapshot import take_snapshot
from bigpeft.checkpoint.stages import training_state
from bigpeft.checkpoint.state import before_updates, updates_done
from bigpeft.checkpoint.writer import Writer

__all__ = [
    "Keep",
    "Meta",
    "Writer",
    "before_updates",
    "best_together",
    "complete",
    "find",
    "find_together",
    "load",
    "loss_scale",
    "read_meta",
    "step_of",
    "take_snapshot",
    "training_state",
    "updates_done",
    "verify",
]
