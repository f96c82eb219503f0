"""Plain pairs: `{"prompt": "...", "completion": "..."}`, joined as they are, without a template.

The loss falls on the completion and on the end-of-text token that follows it.
"""

from collections.abc import Mapping
from typing import Any

from bigpeft.data.formats.base import Format, Row, text_in


class PromptCompletion(Format):
    """Two texts. Conversations belong in the format `messages`."""

    columns = ("prompt", "completion")

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError where a column holds anything but text."""
        return Row(prompt=text_in(row, "prompt"), completion=text_in(row, "completion"))
