"""Which rank is slowest, in each step and over a run."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from bigpeft.backbone import Stopwatch
from bigpeft.world import World

_STEPS = 20
_OFTEN = 0.8
_SLOWER = 1.2


class Pace:
    """Compares the ranks' own work in each step. Made and asked by all ranks together.

    The time of a step is the same on all ranks, since each waits for the slowest.
    """

    def __init__(self, stopwatch: Stopwatch, world: World, device: torch.device) -> None:
        self._stopwatch, self._device = stopwatch, device
        self._hosts: list[str] = [world.host] * world.size
        if world.size > 1:
            dist.all_gather_object(self._hosts, world.host)

    def of_step(self) -> dict[str, Any]:
        """Columns of metrics.jsonl; none for a rank that is alone."""
        if len(self._hosts) == 1:
            self._stopwatch.seconds()
            return {}
        mine = torch.tensor([self._stopwatch.seconds()], device=self._device)
        everyone = torch.empty(len(self._hosts), device=self._device)
        dist.all_gather_into_tensor(everyone, mine)
        seconds = everyone.tolist()
        slowest = max(range(len(seconds)), key=seconds.__getitem__)
        return {
            "slowest_rank": slowest,
            "slowest_node": self._hosts[slowest],
            "slowest_seconds": round(seconds[slowest], 4),
            "median_seconds": round(statistics.median_low(seconds), 4),
        }


def straggler(rows: Sequence[dict[str, Any]]) -> str | None:
    """A sentence about the rank that nearly always holds up the others, None if none does."""
    last = [row for row in rows[-_STEPS:] if "slowest_rank" in row]
    if len(last) < _STEPS // 2:
        return None
    rank = statistics.mode(row["slowest_rank"] for row in last)
    slow = [row for row in last if row["slowest_rank"] == rank]
    ratios = [row["slowest_seconds"] / max(row["median_seconds"], 1e-4) for row in slow]
    usual = statistics.median(ratios)
    if len(slow) < _OFTEN * len(last) or usual < _SLOWER:
        return None
    return (
        f"rank {rank} on {slow[-1]['slowest_node']} is the slowest in {len(slow)} of the last "
        f"{len(last)} steps: it works {usual:.2f} times as long as the median rank"
    )
