"""bigpeft compare: runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bigpeft.report.compare import Table as Lines


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="run folders")],
    html: Annotated[Path | None, typer.Option(help="also write a page, with curves")] = None,
) -> None:
    """Say what the recipes of runs differ in, and what came of it."""
    from bigpeft.report.compare import compare_runs, write_comparison

    found = compare_runs(runs)
    console = Console(highlight=False)
    if found.recipes:
        console.print(_table("recipe", found.names, found.recipes))
    else:
        console.print("the recipes differ in nothing but the run folder")
    console.print(_table("result", found.names, found.results))
    if html is not None:
        typer.echo(write_comparison(found, html))


def _table(title: str, names: list[str], lines: "Lines") -> Table:
    """Text from run folders is shown as it is: brackets are no markup."""
    table = Table(title, box=None, header_style="bold")
    for name in names:
        table.add_column(_plain(name))
    for name, cells in lines:
        table.add_row(_plain(name), *map(_plain, cells))
    return table


def _plain(text: str) -> Text:
    return Text(text, overflow="fold")
