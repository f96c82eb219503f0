"""bigpeft data: what a recipe's rows become."""

from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bigpeft.data import Tokens
    from bigpeft.train.preview import Piece, Preview

app = typer.Typer(help=__doc__, no_args_is_help=True)

_BAR = 40  # characters
_MOST_REASONS = 3
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bigpeft data preview</title>
<style>
body {{ color: {foreground}; background: {background}; margin: 1.5rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: 0.9rem/1.5 ui-monospace, monospace; }}
{stylesheet}
</style></head>
<body><pre>{code}</pre></body></html>
"""


@app.callback()
def _data() -> None:
    """What a recipe's rows become."""


@app.command("preview")
def preview_rows(
    recipe: Annotated[Path, typer.Option(help="recipe file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    rows: Annotated[int, typer.Option(min=0, help="rows to show")] = 3,
    html: Annotated[Path | None, typer.Option(help="also write a page of it")] = None,
) -> None:
    """Show rows as the model sees them: learned tokens bright, masked ones dim, special ones in
    a frame; then what was skipped, dropped or cut, lengths, fill, tokens per epoch and the steps
    that follow.
    """
    from bigpeft.recipe import load_recipe
    from bigpeft.train.preview import preview

    console = Console(highlight=False, soft_wrap=True)
    bars = console if console.is_terminal else None
    found = preview(load_recipe(recipe, overrides or []), rows, bars=bars)
    console.print(story(found, in_colour=console.is_terminal))
    if html is not None:
        page = Console(file=StringIO(), record=True, highlight=False, width=100)
        page.print(story(found, in_colour=True))
        html.write_text(page.export_html(code_format=_PAGE), encoding="utf-8")


def story(found: "Preview", in_colour: bool) -> RenderableType:
    """Rows, then figures. Without colours what is learned stands in double brackets."""
    return Group(*_rows(found, in_colour), _figures(found), _histogram(found))


def _rows(found: "Preview", in_colour: bool) -> Iterator[RenderableType]:
    for number, row in enumerate(found.rows, 1):
        text = Text().append(f"row {number}, {found.lengths[number - 1]} tokens\n", style="bold")
        for piece in row:
            shown = piece.text if in_colour or not piece.learned else f"[[{piece.text}]]"
            text.append(shown, style=_style(piece))
        yield text.append("\n")


def _style(piece: "Piece") -> str:
    return ("green" if piece.learned else "dim") + (" reverse" if piece.special else "")


def _figures(found: "Preview") -> Table:
    table = Table.grid(padding=(0, 2))
    tokens = len(found.tokens.ids)
    for name, value in {
        "rows": f"{found.units}",
        **_left_out(found.tokens),
        "tokens": f"{tokens:,} an epoch, {found.learned / tokens:.1%} of them learned",
        "lengths": f"{int(found.lengths.min())} to {int(found.lengths.max())}, "
        f"median {int(found.lengths.median())}",
        "filled": f"{found.filled:.1%} of the places in batches",
        "run": f"{found.steps:,} steps of {found.global_size}, {found.epochs:.2f} epochs",
    }.items():
        table.add_row(Text(name, style="bold"), Text(value))
    return table


def _left_out(tokens: "Tokens") -> Mapping[str, str]:
    """What became of rows over the length, and of those that cannot be used."""
    fates = {name: getattr(tokens, name) for name in ("truncated", "split", "dropped")}
    told = [f"{count} {name} ({count / tokens.read:.1%})" for name, count in fates.items() if count]
    skipped = tokens.skipped.count
    reasons = "".join(f"\n{place} {why}" for place, why in tokens.skipped.told[:_MOST_REASONS])
    return {
        "over data.max_length": f"{', '.join(told) or 'none'} of {tokens.read:,} rows read",
        "skipped": f"{skipped} cannot be used ({skipped / tokens.read:.1%}){reasons}"
        if skipped
        else "none",
    }


def _histogram(found: "Preview") -> Table:
    table = Table.grid(padding=(0, 2))
    classes = found.histogram()
    most = max(count for _, _, count in classes)
    for low, high, count in classes:
        table.add_row(f"{low}-{high}", "█" * -(-count * _BAR // most), f"{count}")
    return table
