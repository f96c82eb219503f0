"""Bytes that every rank holds from the first step to the last, by kind."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import psutil
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
    copies: tuple[int, int],
    world_size: int,
    block: int,
) -> HeldBytes:
    """Count a placed skeleton; `block` is the largest block's elements, `itemsize` of the dtype.

    ZeRO-3 cuts frozen weights over the group, hpZ a second copy over the other one of `copies`, and
    masters over the world; stages 1 and 2 cut the optimizer alone; stage 0 nothing. Masters and two
    moments are fp32. `buffers` are what methods keep frozen beside their parameters, such as
    singular vectors, whole on every rank.
    """
    packed = sum(m.base.packed.numel() for m in model.modules() if isinstance(m, PackedLinear))
    frozen = sum(
        p.numel() for p in model.parameters() if not p.requires_grad and p.dtype.is_floating_point
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cuts = [size for size in copies if size] if stage == 3 else [1]
    masters = 2 if stage == 0 and itemsize == 4 else 3
    return HeldBytes(
        packed_total=packed,
        packed=sum(-(-packed // cut) for cut in cuts),
        gathered=2 * block if stage == 3 and copies[0] > 1 else 0,
        dense=sum(-(-frozen * itemsize // cut) for cut in cuts),
        trained=trained * itemsize,
        buffers=sum(b.numel() * b.element_size() for m in methods for b in m.buffers()),
        gradients=-(-trained * 4 // (world_size if stage >= 2 else 1)),
        optimizer=-(-trained * 4 * masters // (world_size if stage >= 1 else 1)),
    )


def available_bytes(world: World) -> int:
    """Memory that one rank may use: of its GPU, or its share of the host's free memory."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(world.local_rank)[0])
    return int(psutil.virtual_memory().available) // max(1, world.local_size)


def total_bytes(world: World) -> int:
    """Memory of one rank, whatever else uses it now: the same for all ranks of equal machines."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(world.local_rank)[1])
    return int(psutil.virtual_memory().total) // max(1, world.local_size)
