"""The contract of a row format: which columns it wants, and the row as a conversation or text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


class RowError(ValueError):
    """A row that cannot be used. `why` is the rest of a sentence that starts with the row."""

    def __init__(self, why: str, fix: str = "mend the row or take it out") -> None:
        super().__init__(why)
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    `learned` False keeps an answer out of the loss; `more` is what the template sees beside role
    and content: tool calls, the name of a tool, thoughts.
    """

    role: str
    content: str
    learned: bool = True
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_answer(self) -> bool:
        """Whether the assistant says it."""
        return self.role == "assistant"

    def message(self) -> dict[str, Any]:
        """As chat templates take it."""
        return {"role": self.role, "content": self.content, **self.more}


@dataclass(frozen=True)
class Row:
    """A row as the tokenizer step takes it.

    `turns` go through the chat template, with the `tools` that the model may call, and the loss
    falls on the assistant's; where there are none, `prompt` is read as it is and the loss falls on
    `completion`.
    """

    turns: tuple[Turn, ...] = ()
    prompt: str = ""
    completion: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def size(self) -> int:
        """Characters of all texts."""
        said = sum(len(turn.content) for turn in self.turns)
        return said + len(self.prompt) + len(self.completion)


class Format(ABC):
    """Reads one row. Raises ValueError with the rest of a sentence that starts with the row."""

    columns: ClassVar[tuple[str, ...]]
    """Columns that must be there; `auto` picks the first format whose columns all are."""

    optional: ClassVar[tuple[str, ...]] = ()
    """Columns that are read where they are there."""

    named_only: ClassVar[str | None] = None
    """Why `auto` does not take rows of this format for what the user wants to train on."""

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
