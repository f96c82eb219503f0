"""How the rows of some files become text: format, columns, template, and what is learned."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bigpeft.data.chat import Chat, LossOn, read_template
from bigpeft.data.encode import Draft
from bigpeft.data.formats import Format, Row, RowError, formats
from bigpeft.data.sources import Refuse, Rows, columns_of, raise_it
from bigpeft.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNUSABLE = "mend the row, or take it out"


def detect(columns: Sequence[str]) -> str:
    """The first format whose columns are all there. Raises DataError listing what there is."""
    for name, kind in formats().items():
        if set(kind.columns) <= set(columns):
            if kind.named_only is not None:
                raise DataError(
                    "data.format",
                    f"was left to auto, and the file {kind.named_only} "
                    f"(columns {', '.join(kind.columns)})",
                    f"write data.format: {name} to learn the chosen answers",
                )
            return name
    known = "; ".join(f"{name}: {', '.join(kind.columns)}" for name, kind in formats().items())
    raise DataError(
        "data.format",
        f"cannot be told from the columns {', '.join(columns) or '(none)'}",
        f"name the format, or map columns with data.columns ({known})",
    )


@dataclass(frozen=True)
class Reader:
    """Rows of some files, and the way from a row to text.

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
        for place, values in self.raw_rows():
            with placed(place):
                row = self.read(values)
            yield place, row

    def raw_rows(self, refuse: Refuse = raise_it) -> Iterator[tuple[str, dict[str, Any]]]:
        """The same before they are read; what cannot even be parsed goes to `refuse`.

        So does a row whose column `id` holds what an earlier row's did.
        """
        self._check_files()
        seen: set[int] = set()
        for place, values in self.source.read(refuse):
            name = values.get("id")
            if isinstance(name, str | int) and not isinstance(name, bool):
                if hash(name) in seen:
                    refuse(_twice(place, name))
                    continue
                seen.add(hash(name))
            yield place, values

    def read(self, values: Mapping[str, Any]) -> Row:
        """A row of the file in its format. Raises RowError."""
        kind, row = self._kind, _renamed(values, self.columns)
        missing = [column for column in kind.columns if column not in row]
        if missing:
            raise RowError(
                f"has no column {', '.join(map(repr, missing))}; it has {', '.join(row) or 'none'}",
                "map the file's columns with data.columns, or set data.format",
            )
        return kind.read(row)

    def draft(self, row: Row) -> Draft:
        """The row as text with its learned spans. Raises RowError."""
        if row.turns:
            return self.chat.draft(row.turns, self.loss_on, row.tools)
        start = 0 if self.loss_on == "all" else len(row.prompt)
        text = row.prompt + row.completion
        return Draft(text, ((start, len(text)),), bare=True)

    @cached_property
    def chat(self) -> Chat:
        """The template of conversations."""
        return Chat(self.tokenizer, read_template(self.template))

    @cached_property
    def format(self) -> str:
        """The name of the format, told from the first row's columns where the recipe says auto."""
        if self.format_name != "auto":
            return self.format_name
        return detect(tuple(_renamed(dict.fromkeys(self.source.columns), self.columns)))

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token of the vocabulary: a text of n has at least n / it."""
        return max((len(token) for token in self.tokenizer.get_vocab()), default=1)

    @cached_property
    def _kind(self) -> type[Format]:
        kind = formats()[self.format]
        known = (*kind.columns, *kind.optional)
        for wanted in self.columns:
            if wanted not in known:
                raise DataError(
                    f"data.columns.{wanted}",
                    f"is no column of the format {self.format}",
                    f"map one of {', '.join(known)}",
                )
        return kind

    def _check_files(self) -> None:
        """Raises DataError for a file that has other columns than the format wants."""
        if len(self.source.sources) < 2:
            return
        for source in self.source.sources:
            columns = columns_of(self.source, source)
            row = _renamed(dict.fromkeys(columns), self.columns)
            missing = [column for column in self._kind.columns if column not in row]
            if missing:
                raise DataError(
                    f"{source} row 1",
                    f"has the columns {', '.join(columns) or '(none)'} among files of the format "
                    f"{self.format}, which needs {', '.join(missing)}",
                    "give files of another format an entry of their own under data.sources",
                )


@contextmanager
def placed(place: str) -> Iterator[None]:
    """What is wrong with a row becomes a DataError that names the row."""
    try:
        yield
    except RowError as error:
        raise DataError(place, error.why, error.fix) from error
    except ValueError as error:
        raise DataError(place, str(error), _UNUSABLE) from error


def _twice(place: str, name: object) -> DataError:
    return DataError(
        place,
        f"has the id {name!r} of an earlier row",
        "take one of them out, set data.on_bad_row: skip, or rename the column if ids may repeat",
    )


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row under the format's names; a column that another one is mapped over is hidden."""
    renamed = {wanted: row[there] for wanted, there in columns.items() if there in row}
    rest = {name: value for name, value in row.items() if name not in columns}
    return rest | renamed
