"""Bytes that every rank holds from the first step to the last, by kind."""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from bigpeft.backbone import PackedLinear
from bigpeft.world import World


@dataclass(frozen=True)
class HeldBytes:
    """Bytes on one rank. Activations and logits come on top."""

    packed_total: int
    packed: int
    gathered: int
    dense: int
    trained: int
    buffers: int
    gradients: int
    optimizer: int

    @property
    def sum(self) -> int:
        """All kinds on one rank."""
        return sum(value for key, value in asdict(self).items() if key != "packed_total")


def held_bytes(
    model: nn.Module,
    methods: Iterable[nn.Module],
    itemsize: int,
    stage: int,
    group_size: int,
    world_size: int,
    block: int,
) -> HeldBytes:
    """Count a placed skeleton; `block` is the largest block's elements, `itemsize` of the dtype.

    ZeRO-3 cuts frozen weights over the group and masters over the world; stages 1 and 2 cut the
    optimizer alone; stage 0 nothing. Masters and two moments are fp32. `buffers` are what methods
    keep frozen beside their parameters, such as singular vectors, whole on every rank.
    """
    packed = sum(m.base.packed.numel() for m in model.modules() if isinstance(m, PackedLinear))
    frozen = sum(
        p.numel() for p in model.parameters() if not p.requires_grad and p.dtype.is_floating_point
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen_cut = group_size if stage == 3 else 1
    masters = 2 if stage == 0 and itemsize == 4 else 3
    return HeldBytes(
        packed_total=packed,
        packed=-(-packed // frozen_cut),
        gathered=2 * block if stage == 3 and group_size > 1 else 0,
        dense=-(-frozen * itemsize // frozen_cut),
        trained=trained * itemsize,
        buffers=sum(b.numel() * b.element_size() for m in methods for b in m.buffers()),
        gradients=-(-trained * 4 // (world_size if stage >= 2 else 1)),
        optimizer=-(-trained * 4 * masters // (world_size if stage >= 1 else 1)),
    )


def available_bytes(world: World) -> int:
    """Memory that one rank may use: of its GPU, or its share of the host's free memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(world.local_rank)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _host_available(free) // max(1, world.local_size)


def _host_available(fallback: int) -> int:
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return fallback
