"""bigpeft verify: whether a checkpoint or a packed model is whole."""

from pathlib import Path
from typing import Annotated

import typer

from bigpeft.errors import EXIT_USER, UserError


def verify(
    path: Annotated[
        Path, typer.Argument(help="a checkpoint, a folder of checkpoints, or a packed model")
    ],
) -> None:
    """Compare every file with its manifest; exit code 2 when any is damaged."""
    from bigpeft.backbone.sources import packed
    from bigpeft.checkpoint.manifest import MANIFEST
    from bigpeft.checkpoint.manifest import verify as verify_checkpoint

    single = (path / MANIFEST).exists() or not list(path.glob("step-*"))
    damaged = False
    for folder in [path] if single else sorted(path.glob("step-*")):
        is_packed = (folder / packed.MANIFEST).exists()
        try:
            (packed.verify if is_packed else verify_checkpoint)(folder)
        except UserError as error:
            damaged = True
            typer.echo(str(error))
        else:
            typer.echo(f"{folder}: whole")
    if damaged:
        raise typer.Exit(EXIT_USER)
