"""bigpeft report: a run as one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="run folder, of a run that goes on or that is over")],
    out: Annotated[Path | None, typer.Option(help="another file than RUN/report.html")] = None,
) -> None:
    """Write what a run did as one HTML page that needs no network."""
    from bigpeft.report import write_report

    typer.echo(write_report(run, out))
