"""The variables that DeepSpeed's launcher gives to the ranks of another node."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

_PREFIXES = ("PYTHON", "MLFLOW", "MV2", "UCX", "NCCL")


def exported(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of this process that travel, and the lines of .deepspeed_env at home and here."""
    found = {name: value for name, value in environment.items() if name.startswith(_PREFIXES)}
    path = environment.get("PYTHONPATH")
    found["PYTHONPATH"] = f"{Path.cwd()}:{path}" if path else str(Path.cwd())
    for folder in (Path.home(), Path.cwd()):
        file = folder / environment.get("DS_ENV_FILE", ".deepspeed_env")
        if file.is_file():
            pairs = (line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
            found |= {name.strip(): value.strip() for name, value in pairs}
    return found


def on_node(command: list[str]) -> str:
    """One line for a node's shell: here, with those variables, as the launcher would run it."""
    names = (f"export {name}={shlex.quote(value)};" for name, value in exported().items())
    return f"{' '.join(names)} cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(command)}"
