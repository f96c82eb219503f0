"""Rows that are read while a run goes on, a window of them at a time.

`datasets` keeps the place in a source: its state is all that is needed to read on from there, on
any number of ranks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bigpeft.data.files import kind_of
from bigpeft.data.reader import Reader
from bigpeft.data.sources import Rows, read_source, table_stream, unreadable_named
from bigpeft.data.text_files import Refuse
from bigpeft.data.tokens import Tokens
from bigpeft.errors import DataError

_TEXT = (".jsonl", ".json", ".csv")


@dataclass(frozen=True)
class Place:
    """Where a stream stands: `windows` and `epochs` behind it; `rows` of this epoch, the last `row`
    of them in this `source`, whose `state` is that of `datasets` (None before its first row).
    """

    windows: int = 0
    epochs: int = 0
    rows: int = 0
    source: int = 0
    row: int = 0
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class Window:
    """Some rows in order; `place` is where the stream stood before them."""

    place: Place
    tokens: Tokens


def windows(
    reader: Reader, size: int, tokenise: Callable[[Reader], Tokens], place: Place
) -> Iterator[Window]:
    """`size` rows of the reader's source at a time, from `place` on, endlessly: after the last row
    comes the first one. The last window of an epoch may be short.

    Raises DataError as `tokenise` does, and for a source that cannot be read or is empty.
    """
    reader = replace(reader, format_name=reader.format)
    while True:
        cursor, before = _Cursor(reader.source, place), place.windows
        while taken := list(islice(cursor, size)):
            given = _Given((reader.source.sources[0],), taken=tuple(taken))
            yield Window(place, tokenise(replace(reader, source=given)))
            place = replace(cursor.place(), windows=place.windows + 1)
        if place.windows == before and not place.rows:
            names = ", ".join(map(str, reader.source.sources))
            raise DataError(names, "holds no row to train on", "change data.held_out")
        place = Place(windows=place.windows, epochs=place.epochs + 1)


@dataclass(frozen=True)
class _Given(Rows):
    """Rows that were read already, or the reason why not."""

    taken: tuple[tuple[str, dict[str, Any] | DataError], ...] = field(default=())

    def read(self, refuse: Refuse) -> Iterator[tuple[str, dict[str, Any]]]:
        """The rows; the reasons go to `refuse`."""
        for place, row in self.taken:
            if isinstance(row, DataError):
                refuse(row)
            else:
                yield place, row


class _Cursor:
    """The rows of one epoch from some place on; knows its place between any two of them."""

    def __init__(self, rows: Rows, place: Place) -> None:
        self._rows, self._place, self._epoch = rows, place, place.epochs
        self._stream: Any = None
        self._found = self._read()

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
        return self._found

    def place(self) -> Place:
        """Behind the last row that was given."""
        return replace(self._place, state=self._stream.state_dict())

    def _read(self) -> Iterator[tuple[str, dict[str, Any] | DataError]]:
        rows, begin = self._rows, self._place
        for index in range(begin.source, len(rows.sources)):
            source = rows.sources[index]
            self._stream = _stream(source, rows.split)
            if index == begin.source and begin.state is not None:
                self._stream.load_state_dict(begin.state)
            else:
                self._place = replace(self._place, source=index, row=0, state=None)
            for row in _named(source, self._stream):
                number = self._place.rows
                if number == rows.limit:
                    return
                self._place = replace(self._place, rows=number + 1, row=self._place.row + 1)
                if rows.part is None or rows.part.has(number):
                    yield _told(source, self._place.row, row)
            if not self._place.row:
                raise DataError(str(source), "holds no row", "take it out, or fill it")


def _told(
    source: Path | str, number: int, row: dict[str, Any]
) -> tuple[str, dict[str, Any] | DataError]:
    if not _is_text(source):
        return f"{source} row {number}", row
    if row["error"] is not None:
        return str(source), DataError(*row["error"])
    return f"{source} row {number}", row["row"]


def _named(source: Path | str, stream: Any) -> Iterator[dict[str, Any]]:
    with unreadable_named(source):
        yield from stream


def _is_text(source: Path | str) -> bool:
    return isinstance(source, Path) and kind_of(source) in _TEXT


def _stream(source: Path | str, split: str | None) -> Any:
    """The source as an IterableDataset. Text is read as without streaming, so that values stay what
    they are and a bad line has its number.
    """
    from datasets import IterableDataset

    if not _is_text(source):
        return table_stream(source, split)
    return IterableDataset.from_generator(_text_rows, gen_kwargs={"source": source})


def _text_rows(source: Path) -> Iterator[dict[str, Any]]:
    bad: list[DataError] = []
    for row in read_source(source, None, bad.append):
        yield from _told_of(bad)
        yield {"row": row, "error": None}
    yield from _told_of(bad)


def _told_of(bad: list[DataError]) -> Iterator[dict[str, Any]]:
    while bad:
        error = bad.pop(0)
        yield {"row": None, "error": (error.what, error.why, error.fix)}
