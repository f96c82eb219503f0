"""Where a process stands, by each launcher's variables. Oracle: what their manuals promise."""

import pytest

from bigpeft.world import read_world

BY_HAND = {
    "deepspeed": {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_SIZE": "4"},
    "torchrun": {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"},
    "srun": {
        "SLURM_PROCID": "5",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "8",
        "SLURM_NTASKS_PER_NODE": "4",
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


def test_a_job_that_was_queued_again_is_another_launch():
    first = read_world(BY_HAND["srun"])
    again = read_world(BY_HAND["srun"] | {"SLURM_RESTART_COUNT": "1"})

    assert first.launch != again.launch


def test_without_a_launcher_a_process_is_alone():
    assert (read_world({}).rank, read_world({}).size) == (0, 1)
