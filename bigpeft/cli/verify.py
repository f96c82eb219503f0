"""bigpeft verify: whether a checkpoint or a packed model is whole."""

from pathlib import Path
from typing import Annotated

import typer

from bigpeft.errors import EXIT_USER, FileError, UserError


def verify(
    path: Annotated[
        Path, typer.Argument(help="a checkpoint, a run folder, its checkpoints, a packed model")
    ],
) -> None:
    """Compare every file with its manifest; exit code 2 when any is damaged."""
    from bigpeft.backbone.sources import packed
    from bigpeft.checkpoint.keeping import META, by_step
    from bigpeft.checkpoint.manifest import MANIFEST
    from bigpeft.checkpoint.manifest import verify as verify_checkpoint

    many = by_step(path) or by_step(path / "checkpoints")
    one = any((path / name).exists() for name in (MANIFEST, packed.MANIFEST, META))
    if not one and not many:
        raise FileError(
            str(path),
            "is no checkpoint, no packed model, and holds no checkpoints",
            "name a run folder, its checkpoints, or what bigpeft quantize wrote",
        )
    damaged = False
    for folder in [path] if one else many:
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
