"""Rows with several possible answers: one row of tokens for each, to be scored as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bigpeft.data.choices import answer_of, with_answer
from bigpeft.data.encode import encode
from bigpeft.data.tokenize import Reader
from bigpeft.data.tokens import Tokens
from bigpeft.errors import DataError


@dataclass(frozen=True)
class OptionRows:
    """`tokens` has the options of row 0, then those of row 1 …; targets are the option alone.

    `counts` int64 (rows,) how many options a row has, `right` int64 (rows,) which one is right.
    """

    tokens: Tokens
    counts: Tensor
    right: Tensor


def option_rows(
    reader: Reader, choices: Sequence[str], column: str | None, max_length: int
) -> OptionRows:
    """Each row's answer exchanged for every one of `choices`, or of the row's own in `column`.

    Raises DataError for a row whose answer is none of them, that has fewer than two, or that an
    option makes longer than `max_length`.
    """
    rows: list[tuple[Tensor, Tensor]] = []
    counts, rights = [], []
    last = replace(reader, loss_on="last")
    for (place, row), (_, values) in zip(reader.rows(), reader.source, strict=False):
        options = list(choices) if column is None else _own(values, column, place)
        answer = answer_of(row)
        if answer not in options:
            raise DataError(
                place,
                f"has the answer {answer!r}, which is not among its options",
                f"add it to {', '.join(options)}, or take the row out",
            )
        drafts = [last.draft(with_answer(row, option)) for option in options]
        encoded = encode(drafts, reader.tokenizer)
        longest = max(len(ids) for ids, _ in encoded)
        if longest > max_length:
            raise DataError(
                place,
                f"has {longest} tokens with one of its options, over data.max_length {max_length}",
                "raise data.max_length, so that every row can be judged",
            )
        rows += encoded
        counts.append(len(options))
        rights.append(options.index(answer))
    return OptionRows(Tokens.of(rows), torch.tensor(counts), torch.tensor(rights))


def _own(values: dict[str, Any], column: str, place: str) -> list[str]:
    options = values.get(column)
    if not isinstance(options, list) or len(options) < 2 or len(set(map(str, options))) < 2:
        raise DataError(
            place,
            f"has no list of two or more options in the column {column!r}",
            "name the right column with choices_column, or mend the row",
        )
    return [str(option) for option in options]
