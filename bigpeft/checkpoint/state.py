"""Masters and moments of trained parameters, whatever ZeRO does with them.

Each ZeRO stage keeps fp32 masters and Adam's moments elsewhere. Here they are read and written one
whole parameter at a time, so a checkpoint does not know the stage that wrote it.
"""

from typing import Any, Protocol

import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from bigpeft.checkpoint.engine import Engine

MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainingState(Protocol):
    """Whole fp32 tensors of one parameter; every call is collective over all ranks."""

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """Of the global batch, in the parameter's shape; between backward and step."""
        ...

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """The master (key None) or a moment, in the parameter's shape."""
        ...

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        """Set it; writing a master also refreshes the copy that the model computes with."""
        ...

    def create_moments(self, updates: int) -> None:
        """Make Adam's lazily created state, as after this many updates."""
        ...


def training_state(engine: Engine) -> TrainingState:
    """The view that fits this engine."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return _Sharded(engine.optimizer)
    if stage in (1, 2) or hasattr(engine.optimizer, "bf16_groups"):
        return _Fragments(engine.optimizer)
    return _Replicated(engine.optimizer)


def updates_done(engine: Engine) -> int:
    """Updates that Adam has made, for its bias correction."""
    steps = [
        int(state["step"]) for state in _adam(engine.optimizer).state.values() if "step" in state
    ]
    return max(steps, default=0)


def _adam(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer under DeepSpeed's wrappers."""
    while not isinstance(optimizer, torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    return optimizer


def _fresh(adam: torch.optim.Optimizer, masters: list[Tensor], updates: int) -> None:
    for master in masters:
        adam.state[master] = {
            "step": torch.tensor(float(updates)),
            **{moment: torch.zeros_like(master) for moment in MOMENTS},
        }


def _whole(parameter: nn.Parameter, key: str | None) -> Tensor:
    """Put together by DeepSpeed's own accessors, for every stage that cuts."""
    if key is None:
        value = safe_get_full_fp32_param(parameter)
    else:
        value = safe_get_full_optimizer_state(parameter, key)
    assert isinstance(value, Tensor)
    return value


def _whole_gradient(parameter: nn.Parameter) -> Tensor:
    """DeepSpeed's own accessor again; without a gradient zeros."""
    value = safe_get_full_grad(parameter)
    shape = getattr(parameter, "ds_shape", parameter.shape)
    if value is None:
        return torch.zeros(shape, device=parameter.device)
    return value.view(shape).float()


class _Sharded:
    """ZeRO-3: each rank holds one padded slice of every parameter."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        return _whole_gradient(parameter) / getattr(self._optimizer, "loss_scale", 1)

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        return _whole(parameter, key)

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        mine = parameter.ds_tensor  # type: ignore[attr-defined]
        start = mine.numel() * parameter.ds_zero_partition_rank  # type: ignore[attr-defined]
        local = value.new_zeros(mine.numel())
        part = value.flatten()[start : start + mine.numel()]
        local[: part.numel()] = part
        if key is not None:
            safe_set_local_optimizer_state(parameter, local, key)
            return
        safe_set_local_fp32_param(parameter, local)
        mine.data.copy_(local)
        if parameter.data.numel() == value.numel():
            parameter.data.copy_(value)

    def create_moments(self, updates: int) -> None:
        masters = self._optimizer.fp32_partitioned_groups_flat
        _fresh(_adam(self._optimizer), masters, updates)


class _Fragments:
    """ZeRO-1 and 2: each rank holds a fragment of the flattened group."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._link_moments()

    def _link_moments(self) -> None:
        """DeepSpeed links the moments of all groups after the first group's first step, when the
        others have none yet; so they are linked anew.
        """
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        return _whole_gradient(parameter) / getattr(self._optimizer, "loss_scale", 1)

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        return _whole(parameter, key)

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        if key is not None:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(value)

    def create_moments(self, updates: int) -> None:
        _fresh(_adam(self._optimizer), _adam_masters(self._optimizer), updates)
        self._link_moments()


def _adam_masters(optimizer: Any) -> list[Tensor]:
    return [p for group in _adam(optimizer).param_groups for p in group["params"]]


class _Replicated:
    """Stage 0: every rank holds everything, one master per parameter."""

    def __init__(self, optimizer: Any) -> None:
        self._adam = _adam(optimizer)
        self._master = {}
        for low, high in zip(
            getattr(optimizer, "fp16_groups", []),
            getattr(optimizer, "fp32_groups", []),
            strict=True,
        ):
            self._master |= {id(p): master for p, master in zip(low, high, strict=True)}

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return found.float()

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        master = self._master.get(id(parameter), parameter)
        return master.data if key is None else self._adam.state[master][key]

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        self.read(parameter, key).copy_(value)
        if key is None:
            parameter.data.copy_(value)

    def create_moments(self, updates: int) -> None:
        _fresh(self._adam, _adam_masters(self._adam), updates)
