"""How far the reading of rows has come: in lines now and then, or on a bar."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_EVERY = 10.0  # seconds
_REDRAWN = 0.1  # seconds


@contextmanager
def counting(what: str, say: Callable[[str], None]) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told of more rows and tokens; says so now and then, and at the end
    where it took long.
    """
    rows = tokens = 0
    started = said = time.monotonic()

    def told() -> None:
        seconds = time.monotonic() - started
        say(f"{what}: {rows:,} rows, {tokens:,} tokens, {tokens / seconds:,.0f} tokens/s")

    def seen(more_rows: int, more_tokens: int) -> None:
        nonlocal rows, tokens, said
        rows, tokens = rows + more_rows, tokens + more_tokens
        if time.monotonic() - said > _EVERY:
            said = time.monotonic()
            told()

    yield seen
    if said > started:
        told()


@contextmanager
def on_bar(what: str, console: Console, total: int | None) -> Iterator[Callable[[int, int], None]]:
    """The same on a bar, which is taken away at the end; without a `total` it only says that the
    work goes on.
    """
    rows = tokens = 0
    drawn = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Drawn by hand: the work is done in forks, which should find one thread here.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as bar:
        task = bar.add_task(what, total=total)

        def seen(more_rows: int, more_tokens: int) -> None:
            nonlocal rows, tokens, drawn
            rows, tokens = rows + more_rows, tokens + more_tokens
            told = f"{what}: {rows:,} rows, {tokens:,} tokens"
            now = time.monotonic()
            bar.update(task, completed=rows, description=told, refresh=now - drawn > _REDRAWN)
            drawn = now if now - drawn > _REDRAWN else drawn

        yield seen
