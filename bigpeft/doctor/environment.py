"""The variables that DeepSpeed's launcher gives to the ranks of another node."""

import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from bigpeft.errors import FileError

_PREFIXES = ("PYTHON", "MLFLOW", "MV2", "UCX", "NCCL")


def exported(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those of this process that travel, and the lines of .deepspeed_env at home and here.

    DS_ENV_FILE names another file. Raises FileError for a line that the launcher cannot take.
    """
    found = {name: value for name, value in environment.items() if name.startswith(_PREFIXES)}
    path = environment.get("PYTHONPATH")
    found["PYTHONPATH"] = f"{Path.cwd()}:{path}" if path else str(Path.cwd())
    for folder in (Path.home(), Path.cwd()):
        file = folder / environment.get("DS_ENV_FILE", ".deepspeed_env")
        if file.is_file():
            found |= _pairs(file)
    return found


def _pairs(file: Path) -> Iterator[tuple[str, str]]:
    """The launcher dies of a line without `=`; behind a `#` its shell would run nothing."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        name, equals, value = line.partition("=")
        if not equals or name.lstrip().startswith("#"):
            raise FileError(
                f"{file}, line {number}",
                f"is no variable: {line!r}",
                "keep nothing but lines NAME=VALUE, without blank lines and comments",
            )
        yield name.strip(), value.strip()


def on_node(command: list[str]) -> str:
    """One line for a node's shell: here, with those variables, as the launcher would run it."""
    names = (f'export {name}="{value}";' for name, value in exported().items())
    return f"{' '.join(names)} cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(command)}"
