"""Rows whose answer is one of a few: where the options part, and which token each begins with.

The answer of a row is replaced by every choice in turn. The renderings agree up to one position;
the token there tells the choices apart, so one forward pass over the row scores them all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bigpeft.data.encode import Draft, encode
from bigpeft.data.formats import Row
from bigpeft.data.reader import Reader
from bigpeft.data.tokens import Tokens
from bigpeft.errors import DataError


@dataclass(frozen=True)
class Choices:
    """Of each row: `position` int64 (rows,) of the deciding token, `options` int64 (rows, choices)
    its value for each choice, `answer` int64 (rows,) the index of the right one.
    """

    position: Tensor
    options: Tensor
    answer: Tensor


def choice_rows(reader: Reader, tokens: Tokens, choices: Sequence[str]) -> Choices:
    """Score positions for the rows that became `tokens`.

    Raises DataError for a row whose answer is none of the choices, for choices that begin alike,
    and when rows were left out for their length.
    """
    positions, options, answers = [], [], []
    for place, row in reader.rows():
        answer = answer_of(row)
        if answer not in choices:
            raise DataError(
                place,
                f"has the answer {answer!r}, which is not among eval.choices",
                f"add it to eval.choices ({', '.join(choices)}), or take the row out",
            )
        drafts: list[Draft] = [reader.draft(with_answer(row, choice)) for choice in choices]
        ids = [ids.tolist() for ids, _ in encode(drafts, reader.tokenizer)]
        position = _parting(ids)
        firsts = [row_ids[position] for row_ids in ids]
        if len(set(firsts)) < len(firsts):
            raise DataError(
                place,
                "cannot tell the choices apart by their first token",
                "use eval.choices that begin with different tokens",
            )
        positions.append(position)
        options.append(firsts)
        answers.append(choices.index(answer))
    if len(positions) != len(tokens):
        raise DataError(
            "eval.path",
            f"{len(positions) - len(tokens)} rows are over data.max_length",
            "raise data.max_length, so that every row can be judged",
        )
    return Choices(*(torch.tensor(values) for values in (positions, options, answers)))


def answer_of(row: Row) -> str:
    """What the last turn says, or the completion."""
    return row.turns[-1].content if row.turns else row.completion


def with_answer(row: Row, answer: str) -> Row:
    """The row with another answer in its place."""
    if not row.turns:
        return replace(row, completion=answer)
    return replace(row, turns=(*row.turns[:-1], replace(row.turns[-1], content=answer)))


def _parting(rows: list[list[int]]) -> int:
    """The first position at which not all rows agree."""
    columns = zip(*rows, strict=False)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), 0)
