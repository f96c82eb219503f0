"""The `bigpeft` command: one file per verb."""

import sys

import typer
from rich.console import Console

from bigpeft.cli import export, fetch, merge, methods, recipe, reference, verify
from bigpeft.errors import EXIT_USER, UserError

app = typer.Typer(
    name="bigpeft",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(recipe.app, name="recipe")
app.command("methods")(methods.methods)
app.command("merge")(merge.merge)
app.command("export")(export.export)
app.command("fetch")(fetch.fetch)
app.command("reference")(reference.reference)
app.command("verify")(verify.verify)


def main() -> None:
    """Run the command; a mistake that the user can mend is one message and exit code 2."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), markup=False)
        sys.exit(EXIT_USER)
