"""Rows of any format → tokens, with one message that names file and row where a row is unusable."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from bigpeft.data.chat import LossOn, draft, read_template
from bigpeft.data.encode import Draft, encode
from bigpeft.data.formats import Format, Row, RowError, formats
from bigpeft.data.sources import Rows
from bigpeft.data.tokens import Tokens
from bigpeft.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LongRows = Literal["error", "drop", "truncate"]

_CHUNK = 256  # rows per call of the tokenizer, which works on them in parallel
_UNUSABLE = "mend the row, or take it out"


def detect(columns: Sequence[str]) -> str:
    """The first format whose columns are all there. Raises DataError listing what there is."""
    for name, kind in formats().items():
        if set(kind.columns) <= set(columns):
            return name
    known = "; ".join(f"{name}: {', '.join(kind.columns)}" for name, kind in formats().items())
    raise DataError(
        "data.format",
        f"cannot be told from the columns {', '.join(columns) or '(none)'}",
        f"name the format, or map columns with data.columns ({known})",
    )


@dataclass(frozen=True)
class Reader:
    """How the rows of some files become text: format, columns, template, and what is learned.

    `columns` maps the format's column → the file's; `template` is Jinja text or a file of it, None
    the tokenizer's own.
    """

    source: Rows
    tokenizer: "PreTrainedTokenizerBase"
    format_name: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    loss_on: LossOn = "assistant"

    def rows(self) -> Iterator[tuple[str, Row]]:
        """("train.jsonl row 7", the row) … Raises DataError for a row that cannot be read."""
        kind = self._format()
        for place, values in self.source:
            with _placed(place):
                row = _read(kind, _renamed(values, self.columns))
            yield place, row

    def draft(self, row: Row) -> Draft:
        """The row as text with its learned spans. Raises RowError."""
        if row.turns:
            return draft(row.turns, self._jinja, self.tokenizer, self.loss_on)
        start = 0 if self.loss_on == "all" else len(row.prompt)
        text = row.prompt + row.completion
        return Draft(text, ((start, len(text)),), bare=True)

    @cached_property
    def _jinja(self) -> str | None:
        return read_template(self.template)

    def _format(self) -> type[Format]:
        name = self.format_name
        if name == "auto":
            there = dict.fromkeys(self.source.columns)
            name = detect(tuple(_renamed(there, self.columns)))
        kind = formats()[name]
        known = (*kind.columns, *kind.optional)
        for wanted in self.columns:
            if wanted not in known:
                raise DataError(
                    f"data.columns.{wanted}",
                    f"is no column of the format {name}",
                    f"map one of {', '.join(known)}",
                )
        return kind


def tokenise(reader: Reader, max_length: int, long_rows: LongRows = "drop") -> Tokens:
    """Read, render and tokenise every row.

    Rows over `max_length` tokens are an error, left out, or cut off behind; a row cut before its
    first target is left out. Raises DataError for a row that cannot be read, that has no target
    token, or when no row is left.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    dropped = 0
    for place, row in _encoded(reader):
        fitted = _fitted(place, row, max_length, long_rows)
        dropped += fitted is None
        kept += [] if fitted is None else [fitted]
    if not kept:
        raise DataError(
            ", ".join(map(str, reader.source.sources)),
            f"holds no row with a target within {max_length} tokens",
            "raise data.max_length",
        )
    return Tokens.of(kept, dropped)


def _encoded(reader: Reader) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Each row's place, and its ids (n,) and targets (n,)."""
    rows = reader.rows()
    while chunk := list(islice(rows, _CHUNK)):
        drafts = []
        for place, row in chunk:
            with _placed(place):
                drafts.append(reader.draft(row))
        encoded = encode(drafts, reader.tokenizer)
        yield from zip((place for place, _ in chunk), encoded, strict=True)


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """What is wrong with a row becomes a DataError that names the row."""
    try:
        yield
    except RowError as error:
        raise DataError(place, error.why, error.fix) from error
    except ValueError as error:
        raise DataError(place, str(error), _UNUSABLE) from error


def _read(kind: type[Format], row: Mapping[str, Any]) -> Row:
    missing = [column for column in kind.columns if column not in row]
    if missing:
        raise RowError(
            f"has no column {', '.join(map(repr, missing))}; it has {', '.join(row) or 'none'}",
            "map the file's columns with data.columns, or set data.format",
        )
    return kind.read(row)


def _fitted(
    place: str, row: tuple[Tensor, Tensor], max_length: int, long_rows: LongRows
) -> tuple[Tensor, Tensor] | None:
    ids, targets = row
    if not targets.any():
        raise DataError(place, "has no token to learn", _UNUSABLE)
    if len(ids) <= max_length:
        return row
    if long_rows == "error":
        raise DataError(
            place,
            f"has {len(ids)} tokens, over data.max_length {max_length}",
            "raise data.max_length, or set data.long_rows to drop or truncate",
        )
    if long_rows == "truncate" and targets[:max_length].any():
        return ids[:max_length], targets[:max_length]
    return None


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under the format's names; a column that another one is mapped over is hidden."""
    renamed = {wanted: row[there] for wanted, there in columns.items() if there in row}
    rest = {name: value for name, value in row.items() if name not in columns}
    return rest | renamed
