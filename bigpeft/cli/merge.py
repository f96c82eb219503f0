"""bigpeft merge: the adapter of a run into the weights of its base."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress


def merge(
    run: Annotated[Path, typer.Argument(help="run folder of a finished run")],
    out: Annotated[Path, typer.Argument(help="new folder, which transformers opens")],
    base: Annotated[
        Literal["dense", "image"],
        typer.Option(
            help="dense: the original weights; image: what their 4-bit codes decode to, which is "
            "what the run was trained on"
        ),
    ] = "dense",
    shard_size: Annotated[float, typer.Option(help="largest file, in GB")] = 5.0,
) -> None:
    """Write the whole model with the adapter in its weights, tensor by tensor."""
    from bigpeft.export import merge as write_merged
    from bigpeft.export import open_run

    opened = open_run(run)
    with Progress(transient=True) as bar:
        task = bar.add_task("merging")
        merged = write_merged(
            opened,
            out,
            base,
            int(shard_size * 1e9),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    weights = opened.recipe.model.weights
    typer.echo(
        f"{merged.folder}: {merged.linears} linears merged, {merged.nbytes / 1e9:.2f} GB in "
        f"{merged.shards} files"
    )
    if weights != "none" and base == "dense":
        typer.echo(
            f"trained over the {weights} image of the base, merged into its dense weights: outputs "
            "differ from the run's by the quantisation error; --base image gives the run's own"
        )
