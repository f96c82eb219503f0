"""Alpaca's rows: `{"instruction": "...", "input": "...", "output": "..."}`, input optional.

Becomes one exchange: the user says instruction, empty line, input; the assistant says output.
"""

from collections.abc import Mapping
from typing import Any

from bigpeft.data.formats.base import Format, Row, Turn, text_in


class Instruction(Format):
    """An instruction, what it applies to, and the answer."""

    columns = ("instruction", "output")
    optional = ("input",)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError where a column holds anything but text."""
        question = text_in(row, "instruction")
        if row.get("input") is not None and (context := text_in(row, "input")):
            question = f"{question}\n\n{context}"
        return Row(turns=(Turn("user", question), Turn("assistant", text_in(row, "output"))))
