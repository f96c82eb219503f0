"""What formats of conversations share: the order of roles, calls of tools, weights."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bigpeft.data.formats.base import Row, RowError, Turn, checked_text

ROLES = ("system", "user", "assistant", "tool")
_CALLS = 'write each call as {"function": {"name": ..., "arguments": {...}}}'


def conversation(turns: Sequence[Turn], tools: Any = None) -> Row:
    """The row that these turns make, with its column of `tools`.

    Raises RowError for roles in an order that no conversation has, and where nothing is learned.
    """
    _check_order(turns)
    answers = [turn for turn in turns if turn.is_answer]
    if not answers:
        raise RowError("has no message by the assistant, so there is nothing to learn")
    if not any(turn.learned for turn in answers):
        raise RowError(
            "has weight 0 in every message by the assistant, so there is nothing to learn",
            "give one of them weight 1, or take the row out",
        )
    return Row(turns=tuple(turns), tools=_tools(tools))


def content_in(
    message: Mapping[str, Any], number: int, may_lack: bool, key: str = "content"
) -> str:
    """The text of a message, parts of text joined; "" for one that may lack it and does."""
    content = message.get(key)
    if content is None and may_lack:
        return ""
    if isinstance(content, list) and content and all(map(_is_text, content)):
        content = "".join(part["text"] for part in content)
    return checked_text(content, f"the {key} of message {number}")


def learned(message: Mapping[str, Any], role: str, number: int) -> bool:
    """Whether the message's weight, OpenAI's 0 or 1, is 1. Raises RowError for another one."""
    weight = message.get("weight")
    if weight is None:
        return True
    if weight not in (0, 1):
        raise RowError(
            f"has the weight {weight!r} in message {number}",
            "write 1 for an answer to learn, 0 for one to leave out",
        )
    if weight and role != "assistant":
        raise RowError(
            f"has the weight 1 in message {number}, which is by the {role}",
            "only the assistant's messages are learned; data.loss_on: all learns every token",
        )
    return bool(weight)


def calls_of(value: Any, number: int) -> list[dict[str, Any]]:
    """Tool calls as templates want them: arguments as a mapping, not as a text of JSON.

    Raises RowError for what is no list of calls.
    """
    if not isinstance(value, list):
        raise RowError(f"holds a {type(value).__name__} as tool_calls of message {number}", _CALLS)
    return [_call(call, number) for call in value]


def parsed(value: Any, place: str) -> Any:
    """`value`, decoded where it is JSON in a text. Raises RowError that names the place."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RowError(f"holds text that is not JSON in {place} ({error.msg})") from error


def present(value: Any) -> Any:
    """`value` without nulls: tables fill the keys that a row lacks with them."""
    if isinstance(value, Mapping):
        return {key: present(item) for key, item in value.items() if item is not None}
    return [present(item) for item in value] if isinstance(value, list) else value


def _call(call: Any, number: int) -> dict[str, Any]:
    call = present(call)
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"has a tool call without a function's name in message {number}", _CALLS)
    place = f"the arguments of {function['name']} in message {number}"
    arguments = parsed(function.get("arguments", {}), place)
    if not isinstance(arguments, dict):
        raise RowError(f"holds a {type(arguments).__name__} in {place}", _CALLS)
    named = {"name": function["name"], "arguments": arguments}
    return (
        {"type": "function"}
        | {k: v for k, v in call.items() if k in ("type", "id")}
        | {"function": named}
    )


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    tools = present(parsed(value, "column 'tools'"))
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(
            "holds no list of functions in column 'tools'",
            'write each as {"type": "function", "function": {"name": ..., "parameters": {...}}}',
        )
    return tuple(tools)


def _check_order(turns: Sequence[Turn]) -> None:
    before = ""
    for number, turn in enumerate(turns, 1):
        if turn.role == "system" and number > 1:
            raise RowError(
                f"has a system message at place {number}", "put what the system says first, once"
            )
        if turn.role == "tool" and before not in ("assistant", "tool"):
            raise RowError(
                f"has the result of a tool in message {number}, which no call comes before",
                "put it behind the assistant's call",
            )
        if turn.role == before and turn.role in ("user", "assistant"):
            raise RowError(
                f"has two messages by the {turn.role} in a row ({number - 1} and {number})",
                "join them into one",
            )
        before = turn.role


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and "text" in part
