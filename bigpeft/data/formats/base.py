"""The contract of a row format: which columns it wants, and the row as a conversation or text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


class RowError(ValueError):
    """A row that cannot be used. `why` is the rest of a sentence that starts with the row."""

    def __init__(self, why: str, fix: str = "mend the row or take it out") -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """A row as the tokenizer step takes it.

    `turns` go through the chat template and the loss falls on the assistant's; where there are
    none, `prompt` is read as it is and the loss falls on `completion`.
    """

    turns: tuple[Turn, ...] = ()
    prompt: str = ""
    completion: str = ""


class Format(ABC):
    """Reads one row. Raises ValueError with the rest of a sentence that starts with the row."""

    columns: ClassVar[tuple[str, ...]]
    """Columns that must be there; `auto` picks the first format whose columns all are."""

    optional: ClassVar[tuple[str, ...]] = ()
    """Columns that are read where they are there."""

    @classmethod
    @abstractmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """The row's columns, already renamed → what the model will see."""


def text_in(row: Mapping[str, Any], column: str) -> str:
    """The text in this column, "" included. Raises RowError for anything else."""
    if column not in row:
        raise RowError(
            f"has no column {column!r}, it has {', '.join(map(repr, row)) or 'none'}",
            "add the column, or map another one to it with data.columns",
        )
    return checked_text(row[column], f"column {column!r}")


def checked_text(value: Any, place: str) -> str:
    """`value` where it is text that can be encoded. Raises RowError that names the place."""
    if not isinstance(value, str):
        holds = "nothing (null)" if value is None else f"a {type(value).__name__}"
        raise RowError(f"holds {holds} in {place}, where text belongs")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"holds half a character (a lone surrogate) in {place}") from error
    return value
