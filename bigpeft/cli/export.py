"""bigpeft export: the adapter of a run in the format of another library."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress

from bigpeft.errors import RecipeError

if TYPE_CHECKING:
    from bigpeft.export import FinishedRun


def export(
    run: Annotated[Path, typer.Argument(help="run folder of a finished run")],
    out: Annotated[Path, typer.Argument(help="new folder, or file for gguf")],
    to: Annotated[
        Literal["hf-peft", "lora", "gguf"],
        typer.Option(
            help="hf-peft: what HF peft has for the method; lora: the change of every mergeable "
            "method as LoRA of HF peft; gguf: LoRA for llama.cpp"
        ),
    ],
    rank: Annotated[int | None, typer.Option(min=1, help="lora: of the factors")] = None,
) -> None:
    """Write the adapter for HF peft or llama.cpp."""
    if (rank is None) == (to == "lora"):
        raise RecipeError(
            "--rank",
            "is missing" if rank is None else f"means nothing to {to}, which keeps the run's own",
            "add --rank 16, or another number" if rank is None else "remove it",
        )
    from bigpeft.export import open_run

    opened = open_run(run)
    if rank is not None:
        _lora(opened, out, rank)
    elif to == "gguf":
        _gguf(opened, out)
    else:
        _hf_peft(opened, out)
    weights = opened.recipe.model.weights
    if weights != "none":
        typer.echo(
            f"trained over the {weights} image of the base; it goes with the dense base and with "
            "any 4-bit image, whose outputs differ from the run's by the quantisation error"
        )


def _hf_peft(run: "FinishedRun", out: Path) -> None:
    from bigpeft.export import export_hf_peft

    written = export_hf_peft(run, out)
    typer.echo(f"{written.folder}: {written.seats} seats as {written.kind} of HF peft")


def _lora(run: "FinishedRun", out: Path, rank: int) -> None:
    from bigpeft.export import export_lora

    with Progress(transient=True) as bar:
        task = bar.add_task("factoring")
        factored = export_lora(
            run, out, rank, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for layer, error in factored.errors.items():
        typer.echo(f"{layer}  {error:.2e}")
    typer.echo(
        f"{factored.folder}: {len(factored.errors)} linears as LoRA of rank {rank}; the largest "
        f"relative error of a change is {max(factored.errors.values()):.2e} (errors.json has all)"
    )


def _gguf(run: "FinishedRun", out: Path) -> None:
    from bigpeft.export import export_gguf

    written = export_gguf(run, out)
    typer.echo(f"{written.file}: {written.linears} linears as a LoRA adapter of llama.cpp")
