"""How a row is read: one file per format, its name the file's name."""

import sys

from bigpeft.data.formats.base import Format, Row, RowError, Turn
from bigpeft.registry import scan

__all__ = ["Format", "Row", "RowError", "Turn", "formats"]


def formats() -> dict[str, type[Format]]:
    """Name → class of every format."""
    # Not `import bigpeft.data.formats as package`: the room exports this function under that name.
    return scan(sys.modules[__name__], Format, frozenset({"base"}))
