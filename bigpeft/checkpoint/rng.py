"""Random states of one rank: of the CPU and of its accelerator."""

import torch
from torch import Tensor

from bigpeft.checkpoint.engine import accelerator


def read_rng(device: torch.device) -> dict[str, Tensor]:
    """cpu, and device where it is another."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states["device"] = accelerator().get_rng_state()
    return states


def write_rng(states: dict[str, Tensor]) -> None:
    """Go on where `read_rng` was called."""
    torch.set_rng_state(states["cpu"])
    if "device" in states:
        accelerator().set_rng_state(states["device"])
