"""How far something has come whose end is not known."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 10.0  # seconds


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
