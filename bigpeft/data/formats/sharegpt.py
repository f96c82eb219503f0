"""ShareGPT's conversations: `{"conversations": [{"from": "human", "value": "..."}, ...]}`.

Names of speakers are those in use: human or user, gpt or assistant, system, tool or observation,
and function_call, whose value is the JSON of a call. A column `system` comes first.
"""

from collections.abc import Mapping
from typing import Any

from bigpeft.data.formats._conversation import calls_of, content_in, conversation, learned, parsed
from bigpeft.data.formats.base import Format, Row, RowError, Turn, text_in

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


class ShareGPT(Format):
    """A list of who said what, at least one by the model."""

    columns = ("conversations",)
    optional = ("system", "tools")

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError for an empty list, an unknown speaker, or a value that is not text."""
        said = row["conversations"]
        if not isinstance(said, list) or not said:
            raise RowError("needs a list with at least one message in column 'conversations'")
        turns = [_turn(message, number) for number, message in enumerate(said, 1)]
        if row.get("system") and turns[0].role != "system":
            turns.insert(0, Turn("system", text_in(row, "system")))
        return conversation(turns, row.get("tools") or None)


def _turn(message: Any, number: int) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(
            f"holds a {type(message).__name__} as message {number}",
            'write each message as {"from": ..., "value": ...}',
        )
    speaker = message.get("from") or message.get("role")
    role = _ROLES.get(str(speaker).lower())
    if role is None:
        raise RowError(
            f"has the speaker {speaker!r} in message {number}", f"use one of {', '.join(_ROLES)}"
        )
    content = content_in(message, number, False, "value" if "value" in message else "content")
    is_learned = learned(message, role, number)
    if speaker == "function_call":
        calls = parsed(content, f"the call of message {number}")
        calls = calls_of(calls if isinstance(calls, list) else [calls], number)
        return Turn(role, "", is_learned, {"tool_calls": calls})
    return Turn(role, content, is_learned)
