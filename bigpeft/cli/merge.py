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
    weights: Annotated[
        str, typer.Option(help="none: as the base keeps them; nf4, fp4: packed to 4 bits")
    ] = "none",
    block: Annotated[int, typer.Option(help="packed weights that share one scale")] = 64,
    nested: Annotated[bool, typer.Option(help="quantise the scales of packed weights too")] = True,
    format: Annotated[
        Literal["packed", "bitsandbytes"] | None,
        typer.Option(
            help="of packed weights: packed, bigpeft's own for model.name (the default), or "
            "bitsandbytes, which transformers opens"
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="the base in another place, such as its dense weights")
    ] = None,
    shard_size: Annotated[float, typer.Option(help="largest file, in GB")] = 5.0,
) -> None:
    """Write the whole model with the adapter in its weights, tensor by tensor, on all cores.

    An interrupted command goes on where it stopped.
    """
    from bigpeft.export import Written, open_run
    from bigpeft.export import merge as write_merged

    opened = open_run(run, model)
    with Progress(transient=True) as bar:
        task = bar.add_task("merging")
        merged = write_merged(
            opened,
            out,
            base,
            Written(weights, block, nested, format),
            int(shard_size * 1e9),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    for remark in merged.remarks:
        typer.echo(remark)
    trained_on = opened.recipe.model.weights
    typer.echo(
        f"{merged.folder}: {merged.linears} linears merged, {merged.nbytes / 1e9:.2f} GB in "
        f"{merged.shards} files"
    )
    if trained_on != "none" and base == "dense":
        typer.echo(
            f"trained over the {trained_on} image of the base, merged into its dense weights: "
            "outputs differ from the run's by the quantisation error; --base image gives the run's "
            "own"
        )
