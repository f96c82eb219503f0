"""One part of a save, which all ranks end together: where one fails, all know."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from bigpeft.errors import CheckpointError, UserError

_FIX = "make room or mend the folder, which all nodes must share; what was saved before is whole"


@contextmanager
def agreed(group: dist.ProcessGroup, what: str) -> Iterator[None]:
    """Raises CheckpointError on every rank of `group` once the work of one of them on `what` has
    failed. Collective. An error that is none of files, disks or content is raised as it is, too.
    """
    failure: BaseException | None = None
    try:
        yield
    except (Exception, CheckpointException) as error:
        failure = error
    said: list[str | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(said, _told(failure, dist.get_rank(group)), group)
    if failure is not None and not isinstance(failure, OSError | UserError | CheckpointException):
        raise failure
    for rank, problem in enumerate(said):
        if problem is not None:
            raise CheckpointError(what, f"rank {rank} on {problem}", _FIX) from failure


def _told(failure: BaseException | None, rank: int) -> str | None:
    """In one line, with the host; nothing where only other ranks have failed."""
    if isinstance(failure, CheckpointException):
        failure = failure.failures[rank][0] if rank in failure.failures else None
    if failure is None:
        return None
    if isinstance(failure, UserError):
        reason = f"{failure.what} {failure.why}"
    else:
        reason = " ".join(str(failure).split()) or type(failure).__name__
    return f"{socket.gethostname()}: {reason}"
