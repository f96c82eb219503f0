"""Checkpoints: sharded safetensors through torch DCP, a manifest, one rename. No pickle."""

from bigpeft.checkpoint.keeping import Keep, step_of
from bigpeft.checkpoint.load import find, load, loss_scale, read_meta
from bigpeft.checkpoint.manifest import verify
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.save import save
from bigpeft.checkpoint.state import training_state, updates_done

__all__ = [
    "Keep",
    "Meta",
    "find",
    "load",
    "loss_scale",
    "read_meta",
    "save",
    "step_of",
    "training_state",
    "updates_done",
    "verify",
]
