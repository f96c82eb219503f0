"""Who shares the reading of weight files, and the way of a tensor from its reader to the others."""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Readers:
    """The ranks that share the files, and this one's place among them. `group` None: the world."""

    place: int
    count: int
    group: dist.ProcessGroup | None = None

    @classmethod
    def of_world(cls) -> "Readers":
        """All ranks; one reader where no process group was joined."""
        if not dist.is_initialized():
            return cls(0, 1)
        return cls(dist.get_rank(), dist.get_world_size())

    def send(self, tensor: Tensor, owner: int) -> None:
        """From the reader at the place `owner` into the tensors of the others."""
        if self.count > 1:
            dist.broadcast(tensor, group_src=owner, group=self.group)


@dataclass(frozen=True)
class ReadersOfNodes(Readers):
    """All ranks of several nodes, as many in each: what is sent comes to a node once, however a
    backend makes its broadcasts.

    `group` is that of this node, `across` that of the ranks with this one's place in other nodes.
    """

    across: dist.ProcessGroup | None = None

    def send(self, tensor: Tensor, owner: int) -> None:
        """To the owner's counterpart in each node first, and from there to its neighbours."""
        node, place = divmod(owner, dist.get_world_size(self.group))
        if dist.get_rank(self.group) == place:
            dist.broadcast(tensor, group_src=node, group=self.across)
        dist.broadcast(tensor, group_src=place, group=self.group)
