"""Conversations: `{"messages": [{"role": "user", "content": "..."}, ...]}`.

Roles are system (first), user, assistant and tool; the loss falls on what the assistant says, calls
of tools included, but for messages with `"weight": 0`. A column `tools` lists what may be called.
"""

from collections.abc import Mapping
from typing import Any

from bigpeft.data.formats._conversation import (
    ROLES,
    calls_of,
    content_in,
    conversation,
    learned,
    present,
)
from bigpeft.data.formats.base import Format, Row, RowError, Turn

_SEEN = ("name", "tool_call_id", "reasoning_content", "thinking")
"""Keys of a message, beside role, content and tool_calls, that templates know."""


class Messages(Format):
    """A list of messages with a role and a content each, at least one by the assistant."""

    columns = ("messages",)
    optional = ("tools",)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError for an empty list, an unknown role, roles out of order, or no text."""
        return conversation(turns_in(row["messages"], "column 'messages'"), row.get("tools"))


def turns_in(messages: Any, place: str) -> list[Turn]:
    """The turns of a list of messages. Raises RowError."""
    if not isinstance(messages, list) or not messages:
        raise RowError(f"needs a list of messages with at least one in {place}")
    return [_turn(message, number) for number, message in enumerate(messages, 1)]


def _turn(message: Any, number: int) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(
            f"holds a {type(message).__name__} as message {number}",
            'write each message as {"role": ..., "content": ...}',
        )
    role = message.get("role")
    if role not in ROLES:
        raise RowError(
            f"has the role {role!r} in message {number}", f"use one of {', '.join(ROLES)}"
        )
    more = present({key: message.get(key) for key in _SEEN})
    if message.get("tool_calls"):
        more["tool_calls"] = calls_of(message["tool_calls"], number)
    content = content_in(message, number, may_lack="tool_calls" in more)
    return Turn(role, content, learned(message, role, number), more)
