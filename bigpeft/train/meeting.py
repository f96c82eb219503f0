"""The first meeting of all ranks, to which one that has failed comes only to say so.

A launcher ends the ranks of its own node, not those of others: they would wait for it to join.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from bigpeft.errors import UserError
from bigpeft.train.engine import join_processes
from bigpeft.world import World


@dataclass(frozen=True)
class _Failed:
    host: str
    error: UserError


def meet(mine: Any, world: World) -> list[Any]:
    """What every rank has brought, in rank order. Collective.

    Raises the UserError of the first rank that has failed before it joined.
    """
    found: list[Any] = [None] * world.size
    dist.all_gather_object(found, mine)
    for rank, brought in enumerate(found):
        if isinstance(brought, _Failed) and rank != world.rank:
            told = brought.error
            raise type(told)(f"rank {rank} on {brought.host}: {told.what}", told.why, told.fix)
    return found


def tell_other_nodes(error: Exception, world: World) -> None:
    """Join, where ranks of other nodes wait for this one to do so, and tell them why it fails."""
    if dist.is_initialized():
        return
    if not isinstance(error, UserError):
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        error = UserError("the run", f"failed ({reason})", "read the traceback of that rank")
    with suppress(Exception):
        join_processes(world)
        meet(_Failed(world.host, error), world)
