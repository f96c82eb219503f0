"""Masters and moments of trained parameters, whatever ZeRO does with them.

Each ZeRO stage keeps fp32 masters and Adam's moments elsewhere. Here they are read and written one
whole parameter at a time, so a checkpoint does not know the stage that wrote it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bigpeft.checkpoint.engine import Engine
from bigpeft.placement import Trained

MOMENTS = ("exp_avg", "exp_avg_sq")


def name_of(item: Trained, moment: str | None) -> str:
    """What a checkpoint calls a master (moment None) or a moment."""
    return item.name if moment is None else f"{item.name}.{moment}"


class TrainingState(ABC):
    """Whole fp32 tensors of one parameter; every call is collective over all ranks.

    A moment that Adam has not made yet is zero.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer, self._adam = optimizer, adam_of(optimizer)

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """Of the global batch, in the parameter's shape; between backward and step."""
        return self._gradient(parameter) / getattr(self._optimizer, "loss_scale", 1)

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """The master (key None) or a moment, in the parameter's shape."""
        if key is not None and not self._has_moments():
            return torch.zeros(whole_shape(parameter), device=parameter.device)
        return self._read(parameter, key)

    def slice(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """What torch.chunk gives this rank of the flattened master or moment; maybe a view of
        what the next update changes.
        """
        return piece_of(self.read(parameter, key))

    def room(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """Where this rank may read its piece to before `fill`; what is in it is lost."""
        piece = piece_of(torch.empty(whole_shape(parameter), device="meta"))
        return torch.zeros_like(piece, device=parameter.device)

    def fill(self, parameter: nn.Parameter, key: str | None, read: DTensor) -> None:
        """Set it from the pieces that all ranks have read to their rooms."""
        self.write(parameter, key, read.full_tensor().view(whole_shape(parameter)))

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        """Set it; writing a master also refreshes the copy that the model computes with."""
        if key is not None and not self._has_moments():
            self.create_moments(0)
        self._write(parameter, key, value)

    def create_moments(self, updates: int) -> None:
        """Make Adam's lazily created state, as after this many updates."""
        for master in self._masters():
            self._start(master, updates)

    def _start(self, master: Tensor, updates: int) -> None:
        self._adam.state[master] = {
            "step": torch.tensor(float(updates)),
            **{moment: torch.zeros_like(master) for moment in MOMENTS},
        }

    def _has_moments(self) -> bool:
        return any(MOMENTS[0] in state for state in self._adam.state.values())

    def _masters(self) -> list[Tensor]:
        """What Adam keeps moments of on this rank."""
        return [p for group in self._adam.param_groups for p in group["params"]]

    def _gradient(self, parameter: nn.Parameter) -> Tensor:
        """With the loss scale, by DeepSpeed's own accessor; zeros where there is none."""
        value = safe_get_full_grad(parameter)
        if value is None:
            return torch.zeros(whole_shape(parameter), device=parameter.device)
        return value.view(whole_shape(parameter)).float()

    def _read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """Put together by DeepSpeed's own accessors, for every stage that cuts."""
        if key is None:
            value = safe_get_full_fp32_param(parameter)
        else:
            value = safe_get_full_optimizer_state(parameter, key)
        assert isinstance(value, Tensor)
        return value

    @abstractmethod
    def _write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None: ...


def updates_done(engine: Engine) -> int:
    """Updates that Adam has made, for its bias correction."""
    steps = [
        int(state["step"]) for state in adam_of(engine.optimizer).state.values() if "step" in state
    ]
    return max(steps, default=0)


def before_updates(engine: Engine, call: Callable[[], None]) -> None:
    """Have `call` made before every update of masters and moments."""
    adam_of(engine.optimizer).register_step_pre_hook(lambda *_: call())


def adam_of(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer under DeepSpeed's wrappers."""
    while not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """Of the whole parameter, whatever this rank holds of it."""
    return getattr(parameter, "ds_shape", parameter.shape)


def piece_of(whole: Tensor) -> Tensor:
    """What torch.chunk gives this rank of a flattened tensor."""
    flat = whole.detach().reshape(-1).float()
    size = -(-flat.numel() // dist.get_world_size())
    return flat[size * dist.get_rank() :][:size]
