"""Rank, local rank and world size: the only reader of the launcher's environment.

`deepspeed`, `torchrun` and `srun` each name these facts differently; everything above receives
a `World` and never looks into `os.environ` for them.
"""

import hashlib
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = {
    "rank": ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"),
    "local_rank": ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "size": ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"),
    "local_size": (
        "LOCAL_WORLD_SIZE",
        "LOCAL_SIZE",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
}


@dataclass(frozen=True)
class World:
    """Where this process stands among all processes of the run.

    `launch` names the launch: the same on all ranks, another for the next attempt where the
    launcher lets us tell.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    host: str = "localhost"
    launch: str = "alone"

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for the run on the terminal."""
        return self.rank == 0


def _first(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    for name in names:
        if environment.get(name, "").isdigit():
            return int(environment[name])
    return default


def _of_slurm(environment: Mapping[str, str]) -> int | None:
    """Ranks of this node, of a list such as `2(x3),1` for four nodes; None without one."""
    told = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    counts: list[int] = []
    for count, often in re.findall(r"(\d+)(?:\(x(\d+)\))?", told or ""):
        counts += [int(count)] * int(often or 1)
    node = _first(environment, ("SLURM_NODEID",), 0)
    return counts[node] if node < len(counts) else None


def _launch(environment: Mapping[str, str], one_node: bool) -> str:
    if one_node:
        return str(os.getppid())
    names = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_RESTART_COUNT")
    names += ("MASTER_ADDR", "MASTER_PORT")
    return "-".join(environment.get(name, "") for name in names)


def read_world(environment: Mapping[str, str] = os.environ) -> World:
    """Facts about this process; a single process when no launcher set anything."""
    size = _first(environment, _NAMES["size"], 1)
    local_size = _first(environment, _NAMES["local_size"], 0) or _of_slurm(environment) or size
    return World(
        rank=_first(environment, _NAMES["rank"], 0),
        local_rank=_first(environment, _NAMES["local_rank"], 0),
        size=size,
        local_size=local_size,
        host=socket.gethostname(),
        launch=_launch(environment, local_size == size),
    )


def _free_port() -> int:
    """For a process that is alone, so that two runs on one machine do not meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def announce(world: World) -> None:
    """Write the facts under the names that torch and DeepSpeed read, where they are missing."""
    defaults = {
        "RANK": world.rank,
        "LOCAL_RANK": world.local_rank,
        "WORLD_SIZE": world.size,
        "LOCAL_WORLD_SIZE": world.local_size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port() if world.size == 1 else 29500,
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, str(value))


def meeting_place() -> str:
    """The address of the first rank's node, once `announce` has written it."""
    return os.environ["MASTER_ADDR"]


def meeting_port() -> int:
    """Where the first rank listens there."""
    return int(os.environ["MASTER_PORT"])


def pin_threads(threads: int | None) -> None:
    """Ask libraries for this many CPU threads per process unless the user already chose."""
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def stable_seed(seed: int, name: str) -> int:
    """A seed for one name that is the same in every process and on every world size."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
