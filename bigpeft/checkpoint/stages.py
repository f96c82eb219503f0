"""Masters and moments as each ZeRO stage keeps them."""

from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import (
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
from bigpeft.checkpoint.state import TrainingState, piece_of, whole_shape


def training_state(engine: Engine) -> TrainingState:
    """The view that fits this engine."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        view = _Swapped if engine.optimizer.swap_optimizer else _Sharded
        return view(engine.optimizer)
    if stage in (1, 2) or hasattr(engine.optimizer, "bf16_groups"):
        return _Fragments(engine.optimizer)
    return _Replicated(engine.optimizer)


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


class _Swapped(_Sharded):
    """ZeRO-3 whose masters and moments are on NVMe, but for parts of less than a MiB.

    DeepSpeed's accessors bring a part in and let it go again: no view of it outlives a call.
    """

    def slice(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        return piece_of(self.read(parameter, key))

    def create_moments(self, updates: int) -> None:
        zero = self._optimizer
        for number, master in enumerate(self._masters()):
            swapped = zero._swappable_optimizer_subgroup(number)
            if swapped:
                zero._optimizer_states_and_gradient_swap_in(number)
            self._start(master, updates)
            if swapped:
                zero._optimizer_states_and_gradient_swap_out(number)

    def _is_state(self, piece: Tensor) -> bool:
        return False


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
