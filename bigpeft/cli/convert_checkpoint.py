"""bigpeft convert-checkpoint: go on with a run that DeepSpeed itself has saved."""

from pathlib import Path
from typing import Annotated

import typer

from bigpeft.errors import CheckpointError


def convert_checkpoint(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DEEPSPEED_FOLDER",
            help="what engine.save_checkpoint has written with ZeRO-3, or the folder of one tag",
        ),
    ],
    recipe: Annotated[Path, typer.Option(help="YAML file of the run that shall go on")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[section.key=value]...", help="Put over it, as in training."),
    ] = None,
    unpickle: Annotated[
        bool, typer.Option("--unpickle", help="open the pickles, which may run code")
    ] = False,
) -> None:
    """Make a checkpoint of DeepSpeed's own format the first one of the recipe's run.folder."""
    if not unpickle:
        raise CheckpointError(
            str(folder),
            "holds pickles, and opening a pickle can run any code that is in it",
            "add --unpickle if you trust whoever has written these files",
        )
    from bigpeft.recipe import load_recipe
    from bigpeft.train.convert import convert

    made = convert(folder, load_recipe(recipe, overrides or ()), typer.echo)
    typer.echo(
        f"{made.folder}: {made.parameters} parameters with their moments after {made.updates} "
        f"updates in {made.precision}, saved by {made.ranks} ranks; checkpoint.resume=auto goes on"
    )
