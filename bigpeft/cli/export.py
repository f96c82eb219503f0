"""bigpeft export: the adapter of a run in the format of another library."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress


def export(
    run: Annotated[Path, typer.Argument(help="run folder of a finished run")],
    out: Annotated[Path, typer.Argument(help="new folder, which HF peft opens")],
    to: Annotated[
        Literal["lora"], typer.Option(help="lora: the change of every mergeable method as LoRA")
    ],
    rank: Annotated[int, typer.Option(min=1, help="of the LoRA factors")],
) -> None:
    """Write the adapter for HF peft, and say per layer what the factors lose."""
    from bigpeft.export import export_lora, open_run

    opened = open_run(run)
    with Progress(transient=True) as bar:
        task = bar.add_task(f"factoring for {to}")
        factored = export_lora(
            opened, out, rank, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for layer, error in factored.errors.items():
        typer.echo(f"{layer}  {error:.2e}")
    typer.echo(
        f"{factored.folder}: {len(factored.errors)} linears as LoRA of rank {rank}; the largest "
        f"relative error of a change is {max(factored.errors.values()):.2e} (errors.json has all)"
    )
