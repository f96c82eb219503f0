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
    safe_get_local_fp32_param,
    safe_get_local_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
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
        self._optimizer, self._adam = optimizer, _adam(optimizer)

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


def before_updates(engine: Engine, call: Callable[[], None]) -> None:
    """Have `call` made before every update of masters and moments."""
    _adam(engine.optimizer).register_step_pre_hook(lambda *_: call())


def _adam(optimizer: Any) -> torch.optim.Optimizer:
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


class _Sharded(TrainingState):
    """ZeRO-3: each rank holds one padded slice of every parameter."""

    def slice(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """ZeRO's own slice, without its padding, where all ranks share the parameter."""
        group = parameter.ds_process_group  # type: ignore[attr-defined]
        if dist.get_world_size(group) != dist.get_world_size():
            return super().slice(parameter, key)
        if key is None:
            local = safe_get_local_fp32_param(parameter)
        elif self._has_moments():
            local = safe_get_local_optimizer_state(parameter, key)
        else:
            local = torch.zeros(parameter.ds_tensor.numel(), device=parameter.device)  # type: ignore[attr-defined]
        assert isinstance(local, Tensor)
        left = whole_shape(parameter).numel() - local.numel() * dist.get_rank()
        return local.detach()[: max(0, left)]

    def room(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """The state itself, so that no second copy of it is ever in memory."""
        mine = self.slice(parameter, key)
        return mine if self._is_state(mine) else super().room(parameter, key)

    def fill(self, parameter: nn.Parameter, key: str | None, read: DTensor) -> None:
        """What was read in place needs no more than a live copy of the masters."""
        mine = read.to_local()
        if not self._is_state(mine):
            super().fill(parameter, key, read)
        elif key is None:
            live = parameter.ds_tensor  # type: ignore[attr-defined]
            live.data[: mine.numel()].copy_(mine)
            if parameter.data.numel() == read.numel():
                parameter.data.copy_(read.full_tensor().view(parameter.shape))

    def _is_state(self, piece: Tensor) -> bool:
        """Whether this is memory of the optimizer, and no copy of it."""
        memory = piece.untyped_storage().data_ptr()
        kept = (t for m in self._masters() for t in (m, *self._adam.state[m].values()))
        return any(memory == t.untyped_storage().data_ptr() for t in kept)

    def _masters(self) -> list[Tensor]:
        return self._optimizer.fp32_partitioned_groups_flat

    def _write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
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


class _Fragments(TrainingState):
    """ZeRO-1 and 2: each rank holds a fragment of the flattened group."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer)
        self._linked = False

    def _link_moments(self) -> None:
        """DeepSpeed links the moments of all groups after the first group's first step, when the
        others have none yet; so they are linked anew.
        """
        self._optimizer._hp_optimizer_states_linked = False
        self._optimizer._lazy_init_hp_params_optimizer_state()
        self._linked = True

    def _read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        if key is not None and not self._linked:
            self._link_moments()
        return super()._read(parameter, key)

    def _write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        if key is not None:
            if not self._linked:
                self._link_moments()
            safe_set_full_optimizer_state(parameter, value, key)
            return
        safe_set_full_fp32_param(parameter, value)
        parameter.data.copy_(value)

    def create_moments(self, updates: int) -> None:
        super().create_moments(updates)
        self._link_moments()


class _Replicated(TrainingState):
    """Stage 0: every rank holds everything, one master per parameter."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__(optimizer)
        self._master = {}
        for low, high in zip(
            getattr(optimizer, "fp16_groups", []),
            getattr(optimizer, "fp32_groups", []),
            strict=True,
        ):
            self._master |= {id(p): master for p, master in zip(low, high, strict=True)}

    def _read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        master = self._master.get(id(parameter), parameter)
        return master.data if key is None else self._adam.state[master][key]

    def _write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        self._read(parameter, key).copy_(value)
        if key is None:
            parameter.data.copy_(value)
