"""bigpeft quantize: a model's packed checkpoint."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress


def quantize(
    model: Annotated[str, typer.Argument(help="folder of a Hugging Face model, or a hub name")],
    out: Annotated[Path, typer.Argument(help="new folder, for model.name in recipes")],
    weights: Annotated[str, typer.Option(help="nf4 or fp4")] = "nf4",
    block: Annotated[int, typer.Option(help="weights that share one scale")] = 64,
    nested: Annotated[bool, typer.Option(help="quantise the scales too")] = True,
    revision: Annotated[str | None, typer.Option(help="of a hub model")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="run Python code that ships with the model")
    ] = False,
    shard_size: Annotated[float, typer.Option(help="largest file, in GB")] = 2.0,
) -> None:
    """Pack the linears of a model once, on all cores, so that later loads read 4-bit bytes alone.

    An interrupted command goes on where it stopped.
    """
    from bigpeft.backbone import quantize as write_packed
    from bigpeft.plan import model_to_pack

    folder, skeleton, source = model_to_pack(
        name=model,
        weights=weights,
        block=block,
        nested=nested,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    with Progress(transient=True) as bar:
        task = bar.add_task("packing")
        manifest = write_packed(
            skeleton,
            source,
            folder,
            out,
            int(shard_size * 1e9),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    size = sum(nbytes for nbytes, _ in manifest.files.values())
    typer.echo(
        f"{out}: {len(manifest.packed)} linears packed as {weights}, {size / 1e9:.2f} GB in "
        f"{len(manifest.files)} files, made from base {manifest.source.short}"
    )
    typer.echo(
        f"in recipes: model: {{name: {out}, weights: {weights}, block: {block}, "
        f"nested: {str(nested).lower()}}}"
    )
