"""What becomes of rows over data.max_length: refused, dropped, cut behind, or split.

A text is split anywhere, each piece beginning like a text of its own. A conversation is split
before messages by the user, each piece under the system message that the whole began with; one
exchange that is too long by itself is dropped. A prompt and its completion belong together.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from bigpeft.data.encode import Draft, encode, opening_of
from bigpeft.data.formats import Row, RowError, Turn
from bigpeft.data.reader import Reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LongRows = Literal["error", "drop", "truncate", "split"]
Encoded = tuple[Tensor, Tensor]

_BLOCK = 1 << 20
"""Characters of a split text that are tokenised at once."""


@dataclass(frozen=True)
class Fit:
    """How rows are made to fit into `max_length` tokens."""

    max_length: int
    long_rows: LongRows

    def draft(self, reader: Reader, row: Row) -> Draft | None:
        """The row as text, None where that is not worth while: it is too long by far.

        A text of more characters than `max_length` of the longest tokens have is never tokenised
        whole, which would take minutes and gigabytes for one of 100 MB. Raises RowError.
        """
        most = self._most_characters(reader)
        if row.size <= most:
            return reader.draft(row)
        if self.long_rows == "error":
            raise _too_long(f"{row.size} characters", self.max_length)
        if self.long_rows != "truncate":
            return None
        draft = reader.draft(row)
        spans = tuple((start, min(end, most)) for start, end in draft.spans if start < most)
        return replace(draft, text=draft.text[:most], spans=spans)

    def rows(self, reader: Reader, row: Row, encoded: Encoded | None) -> list[Encoded]:
        """What is trained on instead of a row that was read, drafted and `encoded`.

        Raises RowError for a row that has no target, is refused, or cannot be split.
        """
        if encoded is not None:
            ids, targets = encoded
            if not targets.any():
                raise RowError("has no token to learn")
            if len(ids) <= self.max_length:
                return [encoded]
            if self.long_rows == "error":
                raise _too_long(f"{len(ids)} tokens", self.max_length)
            if self.long_rows == "truncate":
                return _with_targets([(ids[: self.max_length], targets[: self.max_length])])
        if self.long_rows != "split":
            return []
        if row.turns:
            return _with_targets(list(self._exchanges(reader, row)))
        if row.prompt:
            raise RowError(
                f"is over data.max_length {self.max_length}, and a prompt is not split from its "
                "completion",
                "raise data.max_length, or set data.long_rows to drop or truncate",
            )
        return _with_targets(_pieces(row.completion, reader.tokenizer, self.max_length))

    def is_long(self, reader: Reader, row: Row, encoded: Encoded | None) -> bool:
        """Whether the row, `encoded` from its draft, is over `max_length`."""
        if encoded is None or len(encoded[0]) > self.max_length:
            return True
        return row.size > self._most_characters(reader)

    def _most_characters(self, reader: Reader) -> int:
        return self.max_length * reader.longest_token

    def _exchanges(self, reader: Reader, row: Row) -> Iterator[Encoded]:
        """As many exchanges as fit, then as many of the rest, and so on."""
        opening = [turn for turn in row.turns[:1] if turn.role == "system"]
        kept: list[Turn] = []
        fitting: Encoded | None = None
        for exchange in _exchanges(row.turns[len(opening) :]):
            longer = self._fitting(reader, row, [*opening, *kept, *exchange])
            if longer is None and fitting is not None:
                yield fitting
                kept = []
                longer = self._fitting(reader, row, [*opening, *exchange])
            kept = [] if longer is None else [*kept, *exchange]
            fitting = longer
        if fitting is not None:
            yield fitting

    def _fitting(self, reader: Reader, row: Row, turns: list[Turn]) -> Encoded | None:
        part = replace(row, turns=tuple(turns))
        if part.size > self._most_characters(reader):
            return None
        if not any(turn.is_answer for turn in turns):
            return None
        (encoded,) = encode([reader.draft(part)], reader.tokenizer)
        return encoded if len(encoded[0]) <= self.max_length else None


def _exchanges(turns: tuple[Turn, ...]) -> Iterator[list[Turn]]:
    """Parts that begin with the user and end before the user speaks again."""
    exchange: list[Turn] = []
    for turn in turns:
        if turn.role == "user" and exchange:
            yield exchange
            exchange = []
        exchange.append(turn)
    yield exchange


def _pieces(text: str, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[Encoded]:
    """A text in pieces of `max_length` tokens: BOS before each, EOS behind the last."""
    opening = torch.tensor(opening_of(tokenizer), dtype=torch.int32)
    blocks = [Draft(block, ((0, len(block)),)) for block in _blocks(text)]
    parts = [encode([block], tokenizer)[0][0] for block in blocks]
    eos = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
    ids = torch.cat([*parts, torch.tensor(eos, dtype=torch.int32)])
    if len(opening) and ids[: len(opening)].equal(opening):
        ids = ids[len(opening) :]
    found = []
    for piece in ids.split(max(1, max_length - len(opening))):
        whole = torch.cat([opening, piece])
        targets = torch.ones(len(whole), dtype=torch.bool)
        targets[: max(1, len(opening))] = False
        found.append((whole, targets))
    return found


def _blocks(text: str) -> Iterator[str]:
    """Of at most a million characters, cut before a space where there is one."""
    start = 0
    while start < len(text):
        end = start + _BLOCK
        if end < len(text):
            space = text.rfind(" ", start + 1, end)
            end = space if space > 0 else end
        yield text[start:end]
        start = end


def _with_targets(rows: list[Encoded]) -> list[Encoded]:
    return [(ids, targets) for ids, targets in rows if targets.any()]


def _too_long(size: str, max_length: int) -> RowError:
    return RowError(
        f"has {size}, over data.max_length {max_length}",
        "raise data.max_length, or set data.long_rows to drop, truncate or split",
    )
