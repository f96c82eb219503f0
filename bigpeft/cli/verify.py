"""bigpeft verify: whether a checkpoint is whole."""

from pathlib import Path
from typing import Annotated

import typer

from bigpeft.errors import EXIT_USER, CheckpointError


def verify(
    path: Annotated[Path, typer.Argument(help="a checkpoint, or a folder of checkpoints")],
) -> None:
    """Compare every file with its manifest; exit code 2 when any checkpoint is damaged."""
    from bigpeft.checkpoint.manifest import MANIFEST
    from bigpeft.checkpoint.manifest import verify as verify_one

    single = (path / MANIFEST).exists() or not list(path.glob("step-*"))
    damaged = False
    for folder in [path] if single else sorted(path.glob("step-*")):
        try:
            verify_one(folder)
        except CheckpointError as error:
            damaged = True
            typer.echo(str(error))
        else:
            typer.echo(f"{folder}: whole")
    if damaged:
        raise typer.Exit(EXIT_USER)
