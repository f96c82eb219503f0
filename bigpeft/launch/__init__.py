"""How a run starts on many machines: one file per launcher, one template each in launch/."""

from bigpeft.launch import k8s, slurm, ssh
from bigpeft.launch.job import Job

__all__ = ["Job", "k8s", "slurm", "ssh"]
