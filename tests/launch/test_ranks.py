"""Where a process stands, by each launcher's variables. Oracle: what their manuals promise."""

import socket

import pytest

from bigpeft.errors import UserError
from bigpeft.train.engine import join_processes
from bigpeft.world import read_world

BY_HAND = {
    "deepspeed": {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4"},
    "torchrun": {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
    "srun": {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
        "SLURM_NODEID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
        "SLURM_TASKS_PER_NODE": "64(x2)",
        "SLURM_JOB_ID": "41",
    },
    "mpirun": {
        "OMPI_COMM_WORLD_RANK": "5",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    },
}


@pytest.mark.parametrize("launcher", BY_HAND)
def test_every_launcher_tells_the_same(launcher):
    world = read_world(BY_HAND[launcher])

    assert (world.rank, world.local_rank, world.size, world.local_size) == (5, 1, 8, 4)


@pytest.mark.parametrize(("node", "size"), list(enumerate([2, 2, 3, 3, 3, 1])))
def test_srun_tells_the_ranks_of_each_node_in_a_list(node, size):
    told = BY_HAND["srun"] | {"SLURM_STEP_TASKS_PER_NODE": "2(x2),3(x3),1"}

    assert read_world(told | {"SLURM_NODEID": str(node)}).local_size == size


def test_a_job_that_was_queued_again_is_another_launch():
    first = read_world(BY_HAND["srun"])
    again = read_world(BY_HAND["srun"] | {"SLURM_RESTART_COUNT": "1"})

    assert first.launch != again.launch


def test_without_a_launcher_a_process_is_alone():
    assert (read_world({}).rank, read_world({}).size) == (0, 1)


def test_a_port_in_use_is_named_with_the_way_to_choose_another(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        told = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        for name, value in (told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}).items():
            monkeypatch.setenv(name, value)

        with pytest.raises(UserError, match=f"port {port} of .*: is in use.*\\n.*--master_port"):
            join_processes(read_world())
