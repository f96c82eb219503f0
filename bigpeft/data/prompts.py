"""Rows whose answer is to be generated: the tokens up to it, and the answer that is expected."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from bigpeft.data.encode import Draft, encode
from bigpeft.data.formats import Row, RowError, Turn
from bigpeft.data.formats.base import text_in
from bigpeft.data.formats.messages import turns_in
from bigpeft.data.reader import Reader, placed
from bigpeft.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STAND_IN = "\u241f"


@dataclass(frozen=True)
class Prompt:
    """`ids` of the `text` before an answer; what is `expected`, which may be unknown and empty."""

    ids: tuple[int, ...]
    text: str
    expected: str = ""


def read_prompts(reader: Reader, limit: int | None = None) -> list[Prompt]:
    """The last answer of each row, or of the first `limit`. Raises DataError for one without."""
    found = []
    for place, row in islice(reader.rows(), limit):
        try:
            found.append(prompt_of(row, reader))
        except RowError as error:
            raise DataError(place, error.why, error.fix) from error
    return found


def read_questions(reader: Reader) -> list[Prompt]:
    """Of rows with `messages`, whose last answer is left out where there is one, or with a plain
    text in `prompt`. Raises DataError for another row.
    """
    found = []
    for place, values in reader.source:
        with placed(place):
            if "messages" in values:
                turns = turns_in(values["messages"], "column 'messages'")
                found.append(question(turns[:-1] if turns[-1].is_answer else turns, reader))
            else:
                text = text_in(values, "prompt")
                found.append(Prompt(tokens_before(text, reader.tokenizer), text))
    return found


def prompt_of(row: Row, reader: Reader) -> Prompt:
    """What comes before the row's last answer. Raises RowError where it has none, or no prompt."""
    if row.turns and row.turns[-1].role == "assistant":
        return replace(question(row.turns[:-1], reader), expected=row.turns[-1].content)
    if row.turns:
        raise RowError("does not end with an answer of the assistant")
    if not row.prompt:
        raise RowError(
            "has no prompt that could be answered", "use rows of a prompt and what follows it"
        )
    return Prompt(tokens_before(row.prompt, reader.tokenizer), row.prompt, row.completion)


def question(turns: Sequence[Turn], reader: Reader) -> Prompt:
    """A conversation up to where the assistant's next answer is generated. Raises RowError.

    That is where the learned span of an answer starts, so what is asked is what was trained.
    """
    draft = _answered(turns, reader)
    text = draft.text[: draft.spans[-1][0]]
    return Prompt(_ids(text, reader.tokenizer), text)


def end_of_turn(reader: Reader) -> int | None:
    """The token that closes an answer in the template; None where it takes several or none."""
    try:
        draft = _answered([Turn("user", "a")], reader)
    except RowError:
        return None
    start, end = draft.spans[-1]
    mark = draft.text[start:end].partition(_STAND_IN)[2]
    ids = _ids(mark, reader.tokenizer) if mark else ()
    return ids[0] if len(ids) == 1 else None


def tokens_before(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Token ids of plain text that goes on, with the tokenizer's opening ones and no EOS."""
    ids, added = encode([Draft(text, (), bare=True)], tokenizer)[0]
    # Nothing of the text is learned, so a target can only be the EOS that closes bare text.
    return tuple(ids[:-1].tolist() if added[-1:].any() else ids.tolist())


def _answered(turns: Sequence[Turn], reader: Reader) -> Draft:
    row = Row(turns=(*turns, Turn("assistant", _STAND_IN)))
    return replace(reader, loss_on="last").draft(row)


def _ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    return tuple(encode([Draft(text, ())], tokenizer)[0][0].tolist())
