"""The `bigpeft` command: one file per verb."""

import logging
import sys

import typer
from rich.console import Console

from bigpeft.cli import (
    compare,
    convert_checkpoint,
    data,
    doctor,
    evaluate,
    export,
    fetch,
    generate,
    import_,
    launch,
    merge,
    methods,
    plan,
    quantize,
    recipe,
    reference,
    report,
    run,
    status,
    verify,
)
from bigpeft.errors import EXIT_USER, UserError

app = typer.Typer(
    name="bigpeft",
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(recipe.app, name="recipe")
app.add_typer(data.app, name="data")
app.add_typer(launch.app, name="launch")
app.command("doctor")(doctor.doctor)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("methods")(methods.methods)
app.command("merge")(merge.merge)
app.command("export")(export.export)
app.command("import")(import_.import_)
app.command("convert-checkpoint")(convert_checkpoint.convert_checkpoint)
app.command("plan")(plan.plan)
app.command("quantize")(quantize.quantize)
app.command("fetch")(fetch.fetch)
app.command("reference")(reference.reference)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("run", context_settings=run.SETTINGS)(run.run)
app.command("status")(status.status)
app.command("verify")(verify.verify)


def main() -> None:
    """Run the command; a mistake that the user can mend is one message and exit code 2."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of kernels it lacks
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), markup=False)
        sys.exit(EXIT_USER)
