"""What a plan may change without changing what is learned: machines and how work lies on them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """`group` ranks share one copy of the backbone (ZeRO-3), `second_copy` ranks another one (hpZ)
    if it is not 0; `offload` moves masters, moments and gradient shards to the host,
    `weights_on_host` the frozen shards.
    """

    nodes: int
    gpus_per_node: int
    stage: int
    group: int
    micro_size: int
    global_size: int
    checkpointing: bool
    offload: bool = False
    weights_on_host: bool = False
    second_copy: int = 0

    @property
    def copies(self) -> list[int]:
        """Ranks over which frozen weights are cut, for each copy that is kept."""
        if self.stage < 3:
            return [1]
        return [self.group, self.second_copy] if self.second_copy else [self.group]

    @property
    def gathers(self) -> bool:
        """Whether frozen weights are made whole for every pass."""
        return self.stage == 3 and (self.group > 1 or self.weights_on_host)

    @property
    def ranks(self) -> int:
        """World size."""
        return self.nodes * self.gpus_per_node

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and step."""
        return self.global_size // (self.micro_size * self.ranks)

    @property
    def is_possible(self) -> bool:
        """Whether the batch divides, and the group."""
        fits = self.global_size % (self.micro_size * self.ranks) == 0 and self.accumulation > 0
        divides = all(self.ranks % cut == 0 for cut in self.copies)
        return fits and divides and (self.stage == 3 or self.group == 1)

    def __str__(self) -> str:
        sharing = f"shared by {self.group}" if self.stage == 3 else "whole on every rank"
        if self.second_copy:
            sharing += f" and once more by {self.second_copy}"
        extras = (", activation checkpointing" if self.checkpointing else "") + (
            ", optimizer on the host" if self.offload else ""
        )
        extras += ", frozen weights on the host" if self.weights_on_host else ""
        return (
            f"{self.nodes} × {self.gpus_per_node} GPUs, ZeRO-{self.stage}, backbone {sharing}, "
            f"micro-batch {self.micro_size}{extras}"
        )
