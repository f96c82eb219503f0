"""JSON and CSV files as rows, value for value as they are written, errors with their line.

Read here rather than by a JSON loader that guesses types: guessing turns a column of ISO dates
into timestamps and the CSV field NA into nothing.
"""

import csv
import gzip
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from bigpeft.errors import DataError

_UTF8 = "save the file as UTF-8"
_OBJECTS = "write one JSON object per line, or one list of objects in a .json file"


Refuse = Callable[[DataError], None]
"""What to do about a row that cannot be read: raise, or note it and go on."""


def raise_it(error: DataError) -> NoReturn:
    """Let the first unusable row end the reading."""
    raise error


def json_rows(path: Path, refuse: Refuse) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file, or of a file that is one list.

    Blank lines are passed over; the error of a line that is no row, with its number, goes to
    `refuse`. Raises DataError for a file that cannot be read on.
    """
    lines = _lines(path, refuse)
    if path.name.removesuffix(".gz").endswith(".json"):
        text = list(lines)
        if next((line.strip() for line in text if line.strip()), "").startswith("["):
            yield from _json_list(path, "\n".join(text), refuse)
            return
        lines = iter(text)
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = _object(_parsed(path, line, number), f"{path} line {number}")
            except DataError as error:
                refuse(error)
            else:
                yield row


def csv_rows(path: Path, refuse: Refuse) -> Iterator[dict[str, Any]]:
    """Records under a header line; every value is text.

    The error of a record with too many or too few fields goes to `refuse`. Raises DataError where
    records cannot be told apart: quotes that do not match, a line that is not UTF-8.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 128 KiB
    reader = csv.reader((f"{line}\n" for line in _lines(path, raise_it)), strict=True)
    try:
        header = next(reader, [])
        for record in reader:
            if len(record) == len(header):
                yield dict(zip(header, record, strict=True))
            elif record:
                refuse(
                    DataError(
                        f"{path} line {reader.line_num}",
                        f"has {len(record)} fields, the header has {len(header)}",
                        "quote fields that hold commas or line breaks",
                    )
                )
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.line_num}", f"is not CSV ({error})", "mend the quotes"
        ) from error


def _lines(path: Path, refuse: Refuse) -> Iterator[str]:
    """Lines without their ends; one that is not UTF-8 is refused and comes as an empty one."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    refuse(_not_utf8(f"{path} line {number}", error))
                    text = ""
                yield text.rstrip("\r\n")
    except EOFError as error:
        raise DataError(str(path), "is cut off", "copy the file again") from error
    except OSError as error:
        raise DataError(
            str(path), f"cannot be read ({error.strerror or error})", "check the file"
        ) from error


def _not_utf8(place: str, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(place, f"is not UTF-8 (byte 0x{byte:02x} at {error.start})", _UTF8)


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path} line {line + error.lineno - 1}"
        raise DataError(
            place, f"is not JSON ({error.msg} at column {error.colno})", _OBJECTS
        ) from error


def _json_list(path: Path, text: str, refuse: Refuse) -> Iterator[dict[str, Any]]:
    for number, value in enumerate(_parsed(path, text, 1), 1):
        try:
            row = _object(value, f"{path} row {number}")
        except DataError as error:
            refuse(error)
        else:
            yield row


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(place, f"is a JSON {type(value).__name__}, not an object", _OBJECTS)
    return value
