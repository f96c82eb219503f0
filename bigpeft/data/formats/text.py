"""Running text: `{"text": "..."}`. The loss falls on every token and the end of the text."""

from collections.abc import Mapping
from typing import Any

from bigpeft.data.formats.base import Format, Row, text_in


class Text(Format):
    """One text, all of it learned."""

    columns = ("text",)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError where the column holds anything but text."""
        return Row(completion=text_in(row, "text"))
