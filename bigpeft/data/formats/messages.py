"""Conversations: `{"messages": [{"role": "user", "content": "..."}, ...]}`.

Roles are system, user, assistant and tool; the loss falls on what the assistant says.
"""

from collections.abc import Mapping
from typing import Any

from bigpeft.data.formats.base import Format, Row, RowError, Turn, checked_text

ROLES = ("system", "user", "assistant", "tool")


class Messages(Format):
    """A list of messages with a role and a content each, at least one by the assistant."""

    columns = ("messages",)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Row:
        """Raises RowError for an empty list, an unknown role, or content that is not text."""
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            raise RowError("needs a list of messages with at least one in column 'messages'")
        turns = tuple(_turn(message, number) for number, message in enumerate(messages, 1))
        if all(turn.role != "assistant" for turn in turns):
            raise RowError("has no message by the assistant, so there is nothing to learn")
        return Row(turns=turns)


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
    if message.get("tool_calls"):
        raise RowError(
            f"has tool_calls in message {number}, which this format does not read",
            "write the call into the content as the model should say it",
        )
    return Turn(role, checked_text(message.get("content"), f"the content of message {number}"))
