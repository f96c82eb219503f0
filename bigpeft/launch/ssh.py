"""Nodes that reach each other over ssh: DeepSpeed's own launcher over a hostfile."""

from collections.abc import Mapping
from pathlib import Path

from bigpeft.errors import RecipeError
from bigpeft.hostfile import Hostfile
from bigpeft.launch.job import Job

ENVIRONMENT = Path(".deepspeed_env")


def command(
    job: Job, hosts: Hostfile, master: str | None = None, ssh_port: int | None = None
) -> list[str]:
    """The launch, to be run on the first node. Raises RecipeError where the hostfile has less."""
    if job.gpus_per_node > hosts.slots:
        raise RecipeError(
            "--gpus-per-node",
            f"{job.gpus_per_node} are more than the {hosts.slots} slots of {hosts.path}",
            f"write --gpus-per-node {hosts.slots}, or more slots",
        )
    words = ["deepspeed", "--hostfile", str(hosts.path), "--num_nodes", str(job.nodes)]
    words += ["--num_gpus", str(job.gpus_per_node)]
    words += ["--master_addr", master or _address(hosts.nodes[0][0])]
    if ssh_port is not None:
        words += ["--ssh_port", str(ssh_port)]
    return [*words, "launch/train.py", *job.arguments]


def environment(interface: str | None, own: Mapping[str, str]) -> str:
    """What `.deepspeed_env` says: DeepSpeed carries it to every node, and little else.

    `interface` is that of the network between nodes; `own` are further variables, which win.
    """
    values = {"NCCL_DEBUG": "WARN", "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1"}
    if interface is not None:
        values |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    return "".join(f"{name}={value}\n" for name, value in {**values, **own}.items())


def _address(host: str) -> str:
    return host.rpartition("@")[2]
