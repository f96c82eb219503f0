"""JSON and CSV files as rows, value for value as they are written, errors with their line.

Read here rather than by a JSON loader that guesses types: guessing turns a column of ISO dates
into timestamps and the CSV field NA into nothing.
"""

import csv
import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bigpeft.errors import DataError

_UTF8 = "save the file as UTF-8"
_OBJECTS = "write one JSON object per line, or one list of objects in a .json file"


def json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSON-lines file, or of a file that is one list. Raises DataError with the line.

    Blank lines are passed over.
    """
    lines = _lines(path)
    if path.name.removesuffix(".gz").endswith(".json"):
        text = list(lines)
        if next((line.strip() for line in text if line.strip()), "").startswith("["):
            yield from _json_list(path, "\n".join(text))
            return
        lines = iter(text)
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _object(_parsed(path, line, number), f"{path} line {number}")


def csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Records under a header line; every value is text. Raises DataError with the line."""
    csv.field_size_limit(sys.maxsize)  # the default refuses fields over 128 KiB
    reader = csv.reader((f"{line}\n" for line in _lines(path)), strict=True)
    try:
        header = next(reader, [])
        for record in reader:
            if len(record) == len(header):
                yield dict(zip(header, record, strict=True))
            elif record:
                raise DataError(
                    f"{path} line {reader.line_num}",
                    f"has {len(record)} fields, the header has {len(header)}",
                    "quote fields that hold commas or line breaks",
                )
    except csv.Error as error:
        raise DataError(
            f"{path} line {reader.line_num}", f"is not CSV ({error})", "mend the quotes"
        ) from error


def _lines(path: Path) -> Iterator[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(
            f"{path} line {number}", f"is not UTF-8 (byte 0x{byte:02x} at {error.start})", _UTF8
        ) from error
    except EOFError as error:
        raise DataError(str(path), "is cut off", "copy the file again") from error
    except OSError as error:
        raise DataError(
            str(path), f"cannot be read ({error.strerror or error})", "check the file"
        ) from error


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path} line {line + error.lineno - 1}"
        raise DataError(
            place, f"is not JSON ({error.msg} at column {error.colno})", _OBJECTS
        ) from error


def _json_list(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, value in enumerate(_parsed(path, text, 1), 1):
        yield _object(value, f"{path} row {number}")


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(place, f"is a JSON {type(value).__name__}, not an object", _OBJECTS)
    return value
