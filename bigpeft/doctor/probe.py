"""What each rank of the doctor's launch does: one all-reduce and one broadcast, timed."""

import json
import signal
import time
from collections.abc import Callable

LIMIT = 120
"""Seconds that a rank lives: one that waits in vain leaves nothing behind."""
SIGN = "bigpeft-doctor:"
_REPEATS = 5


def main() -> None:
    """Join, measure, leave; the first rank prints one line."""
    signal.alarm(LIMIT)
    import torch
    import torch.distributed as dist

    from bigpeft.train.engine import join_processes, leave_processes
    from bigpeft.world import read_world

    world = read_world()
    device = join_processes(world)
    size = (32 if device.type == "cpu" else 256) << 20
    values = torch.ones(size // 4, device=device)

    def quickest(act: Callable[[], object]) -> float:
        """Seconds, on the rank where it took longest."""
        taken = []
        for _ in range(_REPEATS):
            dist.barrier()
            start = time.perf_counter()
            act()
            values[0].item()  # the device has done it
            taken.append(time.perf_counter() - start)
        slowest = torch.tensor(min(taken), device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return slowest.item()

    dist.all_reduce(values)
    if not bool((values == world.size).all()):
        raise ArithmeticError(f"an all-reduce of ones over {world.size} ranks gave another sum")
    reduced = quickest(lambda: dist.all_reduce(values, dist.ReduceOp.MAX))
    sent = quickest(lambda: dist.broadcast(values, 0))
    if world.is_first:
        found = {
            "ranks": world.size,
            "backend": dist.get_backend(),
            "all_reduce": 2 * (world.size - 1) / world.size * size / reduced,
            "broadcast": size / sent if world.size > 1 else 0.0,
            "size": size,
        }
        print(f"\n{SIGN}{json.dumps(found)}", flush=True)  # noqa: T201  the launcher carries it
    leave_processes()


if __name__ == "__main__":
    main()
