"""The hand-over to ZeRO-3: a filled parameter becomes this rank's slice, at once.

`deepspeed.zero.Init(module=…)` would broadcast from rank 0 what the loader has already
distributed, so its two steps after the broadcast are called here alone.
"""

from datetime import timedelta
from typing import Any, Protocol

import deepspeed
import torch.distributed as dist
from deepspeed.utils import groups
from torch import nn

HPZ = "zero_hpz_partition_size"


class Partition(Protocol):
    """What becomes of a parameter once every rank of the world holds all of it."""

    def keep(self, parameter: nn.Parameter) -> None:
        """Keep this rank's part of the parameter, in place."""


class Whole:
    """ZeRO stages 0 to 2: every rank keeps every byte."""

    def keep(self, parameter: nn.Parameter) -> None:
        """Nothing to cut."""


class ZeroThree:
    """ZeRO-3: frozen parameters are cut over `frozen_group`, trained ones over the world.

    hpZ keeps its second copy of frozen ones alone: it would have to be renewed for trained ones.
    """

    def __init__(self, ds_config: dict[str, Any], frozen_group: dist.ProcessGroup | None) -> None:
        nothing = nn.Module()
        zero = ds_config["zero_optimization"]
        trained = ds_config | {"zero_optimization": zero | {HPZ: 1}}
        again = groups._get_zero_param_intra_parallel_group() if zero.get(HPZ, 1) > 1 else None
        self._world = deepspeed.zero.Init(module=nothing, config_dict_or_path=trained)
        self._frozen = deepspeed.zero.Init(
            module=nothing,
            config_dict_or_path=ds_config,
            data_parallel_group=frozen_group,
            zero_param_parallel_group=again,  # DeepSpeed makes it once for a process
        )

    def keep(self, parameter: nn.Parameter) -> None:
        """Cut the parameter over its group and free the rest."""
        if hasattr(parameter, "ds_id"):
            return
        init = self._world if parameter.requires_grad else self._frozen
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()  # type: ignore[attr-defined]


def node_group(size: int, timeout: timedelta | None = None) -> dist.ProcessGroup | None:
    """The group of `size` neighbouring ranks that this rank belongs to; None for the world.

    `timeout` is that of its collectives, torch's own if None.
    """
    world = dist.get_world_size()
    if size == world:
        return None
    return _mine([range(first, first + size) for first in range(0, world, size)], timeout)


def group_across_nodes(size: int, timeout: timedelta | None = None) -> dist.ProcessGroup | None:
    """The group of the ranks with this one's place in their nodes of `size` ranks."""
    return _mine([range(place, dist.get_world_size(), size) for place in range(size)], timeout)


def _mine(groups: list[range], timeout: timedelta | None) -> dist.ProcessGroup | None:
    mine = None
    for ranks in groups:
        group = dist.new_group(list(ranks), timeout)
        if isinstance(group, dist.ProcessGroup) and dist.get_rank() in ranks:
            mine = group
    return mine
