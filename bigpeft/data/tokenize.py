"""Rows of any format → tokens, with one message that names file and row where a row is unusable."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bigpeft.data.encode import Draft, encode
from bigpeft.data.formats import Row
from bigpeft.data.long_rows import Encoded, Fit, LongRows
from bigpeft.data.reader import Reader, placed
from bigpeft.data.tokens import Tokens
from bigpeft.data.workers import in_order
from bigpeft.errors import DataError

OnBadRow = Literal["error", "skip"]
Seen = Callable[[int, int], object]
"""Told after each chunk how many rows were read and how many tokens they made."""

_CHUNK = 256
"""Rows that one call of the tokenizer gets."""
_Places = list[tuple[str, dict[str, Any]]]


def tokenise(
    reader: Reader,
    max_length: int,
    long_rows: LongRows = "drop",
    on_bad_row: OnBadRow = "error",
    processes: int = 1,
    seen: Seen = lambda rows, tokens: None,
) -> Tokens:
    """Read, render and tokenise every row, in several `processes` where there are many rows.

    Rows over `max_length` tokens are an error, left out, cut off behind, or split; a row cut before
    its first target is left out. Raises DataError for a row that cannot be read or has no target
    token, unless such rows are skipped, and when no row is left.
    """
    bad: list[DataError] = []

    def refuse(error: DataError) -> None:
        if on_bad_row == "error":
            raise error
        bad.append(error)

    done: list[_Done] = []
    work = _Work(reader, Fit(max_length, long_rows))
    for chunk in in_order(work, _chunks(reader, refuse), processes):
        for error in chunk.bad:
            refuse(error)
        done.append(chunk)
        seen(chunk.rows, len(chunk.ids))
    tokens = _joined(done, bad, long_rows).without(bad)
    if not len(tokens):
        raise _nothing(reader, max_length, bad)
    return tokens


@dataclass(frozen=True)
class _Done:
    """A chunk's rows: ids int32 (n,), targets bool (n,), and the length of each."""

    ids: NDArray[np.int32]
    targets: NDArray[np.bool_]
    lengths: list[int]
    rows: int
    dropped: int
    shortened: int
    bad: list[DataError]


@dataclass(frozen=True)
class _Work:
    """From rows of a file to tokens: what the processes do. Arrays travel, for pickling tensors
    costs a file each.
    """

    reader: Reader
    fit: Fit

    def __call__(self, chunk: _Places) -> _Done:
        bad: list[DataError] = []
        drafted = [found for found in (self._drafted(*row, bad) for row in chunk) if found]
        drafts = [draft for _, _, draft in drafted if draft is not None]
        encoded = iter(encode(drafts, self.reader.tokenizer))
        kept: list[Encoded] = []
        dropped = shortened = 0
        for place, row, draft in drafted:
            whole = None if draft is None else next(encoded)
            try:
                with placed(place):
                    fitting = self.fit.rows(self.reader, row, whole)
            except DataError as error:
                bad.append(error)
            else:
                kept += fitting
                dropped += not fitting
                shortened += bool(fitting) and self.fit.is_long(self.reader, row, whole)
        return _Done(
            ids=np.concatenate([np.zeros(0, np.int32), *(ids.numpy() for ids, _ in kept)]),
            targets=np.concatenate([np.zeros(0, bool), *(mask.numpy() for _, mask in kept)]),
            lengths=[len(ids) for ids, _ in kept],
            rows=len(chunk),
            dropped=dropped,
            shortened=shortened,
            bad=bad,
        )

    def _drafted(
        self, place: str, values: dict[str, Any], bad: list[DataError]
    ) -> tuple[str, Row, Draft | None] | None:
        try:
            with placed(place):
                row = self.reader.read(values)
                return place, row, self.fit.draft(self.reader, row)
        except DataError as error:
            bad.append(error)
            return None


def _chunks(reader: Reader, refuse: Callable[[DataError], None]) -> Iterator[_Places]:
    rows = reader.raw_rows(refuse)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _joined(done: list[_Done], bad: list[DataError], long_rows: LongRows) -> Tokens:
    shortened = sum(chunk.shortened for chunk in done)
    unparsed = len(bad) - sum(len(chunk.bad) for chunk in done)
    lengths = [length for chunk in done for length in chunk.lengths]
    ids = np.concatenate([np.zeros(0, np.int32), *(chunk.ids for chunk in done)])
    targets = np.concatenate([np.zeros(0, bool), *(chunk.targets for chunk in done)])
    return Tokens(
        ids=torch.from_numpy(ids),
        targets=torch.from_numpy(targets),
        offsets=torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0),
        dropped=sum(chunk.dropped for chunk in done),
        read=sum(chunk.rows for chunk in done) + unparsed,
        truncated=shortened if long_rows == "truncate" else 0,
        split=shortened if long_rows == "split" else 0,
    )


def _nothing(reader: Reader, max_length: int, bad: list[DataError]) -> DataError:
    files = ", ".join(map(str, reader.source.sources))
    if bad:
        first = bad[0]
        return DataError(
            files,
            f"holds no row that can be used: {len(bad)} were skipped, the first because "
            f"{first.what} {first.why}",
            first.fix,
        )
    if reader.source.part is not None:
        kind = "held-out row" if reader.source.part.held_out else "row to train on"
        return DataError(
            files,
            f"holds no {kind} within {max_length} tokens",
            "change data.held_out, or raise data.max_length",
        )
    return DataError(
        files,
        f"holds no row with a target within {max_length} tokens",
        "raise data.max_length",
    )
