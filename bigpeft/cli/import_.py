"""bigpeft import: a LoRA adapter of HF peft, for a run to start from."""

from pathlib import Path
from typing import Annotated

import typer


def import_(
    adapter: Annotated[Path, typer.Argument(help="folder that HF peft has saved")],
    out: Annotated[Path, typer.Argument(help="new folder, for method.start_from")],
) -> None:
    """Make an adapter of bigpeft of a LoRA of HF peft, and print the recipe's method section."""
    from bigpeft.export import import_peft, method_yaml

    made = import_peft(adapter, out)
    typer.echo(f"{made.folder}: {made.layers} linears; write into the recipe")
    typer.echo(method_yaml(made.section), nl=False)
