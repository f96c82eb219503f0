"""Where in a rendered conversation the assistant's answers stand, for any chat template.

An answer runs from the end of its header (`<|im_start|>assistant` and a line break), where
generation starts, to the end of its end-of-turn mark, where generation stops; the line break that
a template puts after the mark belongs to neither. Templates say none of this, so it is found by
rendering:

    start   the conversation up to the answer, with the generation prompt, is how the text begins
    end     the conversation up to and with the answer is how the text begins

Some templates rewrite earlier turns once later ones follow (thinking is cut out), or have no
generation prompt. There the answer is exchanged for another one: the texts differ exactly where
it stands.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bigpeft.data.formats.base import RowError, Turn

Render = Callable[[Sequence[Turn], bool], str]
"""(turns, whether the generation prompt follows) → text. Raises RowError."""

_STAND_INS = ("\u241f", "\u241e", "\u241d")  # pictures of control characters: nobody's first letter


@dataclass(frozen=True)
class Answer:
    """[start, end) in characters; `header` is the generation prompt that ends at `start`, or ""."""

    start: int
    end: int
    header: str


def find_answer(text: str, turns: Sequence[Turn], index: int, render: Render) -> Answer:
    """Where the answer `turns[index]` stands in `text`, the rendered `turns`.

    Raises RowError where the template hides the answer.
    """
    start, header = _start(text, turns, index, render)
    end = _end(text, turns, index, render)
    body = text[start:end].rstrip()
    if body and _has_mark(text, start, body, turns, index, render):
        end = start + len(body)
    if end <= start:
        raise RowError(
            f"has an answer (message {index + 1}) that the chat template leaves out",
            "train on the last answer only (data.loss_on: last), or set data.template",
        )
    return Answer(start, end, header)


def _has_mark(
    text: str, start: int, body: str, turns: Sequence[Turn], index: int, render: Render
) -> bool:
    """Whether an end-of-turn mark follows the content in `body`, which begins at `start` and has no
    space at its end.
    """
    content = turns[index].content.strip()
    if not turns[index].more:
        if not content or not body.endswith(content):
            return True
        if body.lstrip() == content:
            return False
    # The mark itself may end like the content: "<|im_end|>" after an answer of ">".
    return bool(body[_content_end(text, turns, index, render) - start :].strip())


def _start(text: str, turns: Sequence[Turn], index: int, render: Render) -> tuple[int, str]:
    before = _attempt(render, turns[:index], False)
    prompt = _attempt(render, turns[:index], True)
    if prompt is not None and prompt != before and text.startswith(prompt):
        header = prompt[len(before) :] if before is not None and prompt.startswith(before) else ""
        return len(prompt), header
    start = _shared_head(text, render(_exchanged(turns, index), False))
    if before is not None and text.startswith(before) and not text[len(before) : start].strip():
        return len(before), ""  # no header: the space before the answer is generated, too
    return start, ""


def _end(text: str, turns: Sequence[Turn], index: int, render: Render) -> int:
    upto = _attempt(render, turns[: index + 1], False)
    if upto is not None and text.startswith(upto):
        return len(upto)
    content_end = _content_end(text, turns, index, render)
    if upto is None:
        return content_end
    last = _attempt(render, _exchanged(turns[: index + 1], index), False) or ""
    mark = upto[len(upto) - _shared_tail(upto, last) :].rstrip()
    return content_end + len(mark) if text.startswith(mark, content_end) else content_end


def _content_end(text: str, turns: Sequence[Turn], index: int, render: Render) -> int:
    return len(text) - _shared_tail(text, render(_exchanged(turns, index), False))


def _exchanged(turns: Sequence[Turn], index: int) -> tuple[Turn, ...]:
    content = turns[index].content
    other = next(mark for mark in _STAND_INS if mark not in content[:1] + content[-1:])
    answer = replace(turns[index], content=other, more={})
    return (*turns[:index], answer, *turns[index + 1 :])


def _attempt(render: Render, turns: Sequence[Turn], prompt: bool) -> str | None:
    """None where the template refuses a part of a conversation that it takes as a whole."""
    try:
        return render(turns, prompt)
    except RowError:
        return None


def _shared_head(one: str, other: str) -> int:
    """Characters that both begin with; halved again and again, for texts may be huge."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _shared_tail(one: str, other: str) -> int:
    return _shared_head(one[::-1], other[::-1])
