"""What the benchmarks share: launching ranks, and the kernel's count of their memory."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def resident(key: str) -> int:
    """Bytes of VmRSS or VmHWM of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def free_port() -> int:
    """A port that no other launch on this machine listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch_ranks(script: Path, side: str, ranks: int, *arguments: str) -> list[dict[str, Any]]:
    """Run a side of a script on all ranks; each leaves a JSON file in the folder --out."""
    with tempfile.TemporaryDirectory() as out:
        command = ["deepspeed", "--master_port", str(free_port()), "--num_gpus", str(ranks)]
        command += [str(script), "--side", side]
        command += [*arguments, "--out", out]
        environment = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **os.environ}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return [json.loads(path.read_text()) for path in sorted(Path(out).glob("*.json"))]
