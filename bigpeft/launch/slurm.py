"""A batch script of SLURM: srun starts the ranks."""

import re

from bigpeft.errors import RecipeError
from bigpeft.launch.job import Job
from bigpeft.launch.template import render

_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){1,2}|\d+", re.ASCII)


def script(
    job: Job,
    time: str,
    warn: int,
    partition: str | None = None,
    account: str | None = None,
    interface: str | None = None,
) -> str:
    """To be given to sbatch. It asks the run to stop `warn` seconds before `time` is over, or when
    SLURM takes the nodes away, and queues itself again where a checkpoint can go on.

    Raises RecipeError for a time that SLURM does not read.
    """
    if not _TIME.fullmatch(time):
        raise RecipeError("--time", f"{time!r} is no time", "write such as 12:00:00 or 2-00:00:00")
    for option, value in (("--partition", partition), ("--account", account)):
        if value is not None and not re.fullmatch(r"[\w.,-]+", value, re.ASCII):
            raise RecipeError(option, f"{value!r} is no name", "write its name, without spaces")
    return render(
        "slurm/job.sh",
        {
            "job": job,
            "time": time,
            "warn": warn,
            "partition": partition,
            "account": account,
            "interface": interface,
        },
    )
