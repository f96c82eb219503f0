"""Preferences: `{"prompt": "...", "chosen": "...", "rejected": "..."}`, texts or lists of messages.

Both answers are read and checked; what is learned is the chosen one. Where `chosen` and `rejected`
hold whole conversations, the prompt is what they share and its column may be missing.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bigpeft.data.formats._conversation import conversation
from bigpeft.data.formats.base import Format, Row, RowError, Turn, text_in
from bigpeft.data.formats.messages import turns_in

_BOTH = "write prompt, chosen and rejected all as text, or all as lists of messages"


class Preference(Format):
    """A prompt with a better and a worse answer."""

    columns = ("chosen", "rejected")
    optional = ("prompt", "tools")
    named_only = "holds preferences, and training on preferences is not built"

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError where an answer is missing, both are the same, or prompts differ."""
        if row["chosen"] == row["rejected"]:
            raise RowError("has the same answer in 'chosen' and 'rejected'")
        if isinstance(row["chosen"], list):
            return _conversation(row)
        text_in(row, "rejected")
        if isinstance(row.get("prompt"), list):
            raise RowError("has a list of messages in 'prompt' and a text in 'chosen'", _BOTH)
        return Row(prompt=text_in(row, "prompt"), completion=text_in(row, "chosen"))


def _conversation(row: Mapping[str, Any]) -> Row:
    chosen, rejected = (turns_in(row[name], f"column {name!r}") for name in ("chosen", "rejected"))
    before = _prompt(row.get("prompt"))
    if not chosen[0].is_answer:  # whole conversations: the prompt is their beginning
        before = chosen[:-1]
        if rejected[:-1] != before:
            raise RowError("has a 'chosen' and a 'rejected' that answer different prompts")
        chosen, rejected = chosen[-1:], rejected[-1:]
    if not (chosen[-1].is_answer and rejected[-1].is_answer):
        raise RowError("has an answer that does not end with a message by the assistant")
    context = [replace(turn, learned=False) for turn in before]
    conversation([*context, *rejected])
    return conversation([*context, *chosen], row.get("tools"))


def _prompt(value: Any) -> list[Turn]:
    if value is None:
        return []
    return [Turn("user", value)] if isinstance(value, str) else turns_in(value, "column 'prompt'")
