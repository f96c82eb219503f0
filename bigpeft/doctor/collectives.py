"""A short launch of all ranks, as a run would be launched, and what it measured."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field

from bigpeft.doctor.probe import LIMIT, SIGN
from bigpeft.doctor.problem import Problem
from bigpeft.hostfile import Hostfile

_GRACE = 30  # seconds beyond the ranks' own limit, for the launcher


@dataclass(frozen=True)
class Collectives:
    """Bandwidths in bytes per second: of the links in an all-reduce of a ring, and of a
    broadcast. Zero where a problem came first.
    """

    ranks: int = 0
    backend: str = ""
    all_reduce: float = 0.0
    broadcast: float = 0.0
    size: int = 0
    """Bytes that each operation moved."""
    problems: list[Problem] = field(default_factory=list)


def measure(hostfile: Hostfile | None, slots: int, port: int, on_gpus: bool) -> Collectives:
    """Launch all ranks with DeepSpeed's launcher."""
    try:
        code, output = _launch(hostfile, slots, port, on_gpus)
    except subprocess.TimeoutExpired:
        why = f"did not end within {LIMIT + _GRACE} s"
        return Collectives(problems=[_problem(hostfile, why)])
    for line in output.splitlines():
        _, sign, content = line.partition(SIGN)
        if sign and code == 0:
            return Collectives(**json.loads(content))
    return Collectives(problems=[_problem(hostfile, f"failed ({_reason(output, code)})")])


def _launch(hostfile: Hostfile | None, slots: int, port: int, on_gpus: bool) -> tuple[int, str]:
    nodes = ["--hostfile", str(hostfile.path)] if hostfile else ["--hostfile", os.devnull]
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *nodes]
    if hostfile is None:
        command += ["--num_gpus", str(slots)]
    command += ["--master_port", str(port), "--no_local_rank", "--module", "bigpeft.doctor.probe"]
    environment = dict(os.environ)
    if not on_gpus:
        environment.setdefault("DS_ACCELERATOR", "cpu")
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT + _GRACE)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, output


def _reason(output: str, code: int) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "Error: " in line or "not installed" in line]
    return (errors or lines or [f"exit code {code}"])[-1]


def _problem(hostfile: Hostfile | None, why: str) -> Problem:
    if hostfile is None:
        return Problem("all-reduce on this machine", why, "run deepspeed --num_gpus 1 by hand")
    if "not installed" in why:
        return Problem("deepspeed's launcher", why, "install pdsh on this machine")
    return Problem(
        "all-reduce over all nodes",
        why,
        "let the nodes' firewalls pass all ports between them, and name the interface that joins "
        "them in .deepspeed_env: NCCL_SOCKET_IFNAME=INTERFACE, GLOO_SOCKET_IFNAME=INTERFACE",
    )
