"""What a template writes around answers, remembered, so that a row is rendered once.

Finding an answer exactly takes three renderings of parts of its conversation (`spans.py`). Nearly
all templates write the same header before every answer and the same mark behind it. Where a
rendered text holds that header once per answer, and behind each header the answer's own text with
the mark that was found there before, no other reading is left; in any other case the long way is
taken.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bigpeft.data.encode import Spans
from bigpeft.data.formats.base import Turn
from bigpeft.data.spans import Answer

_Place = tuple[str, str]
"""Roles of the turns before and behind an answer, "" at the ends."""


@dataclass(frozen=True)
class _Around:
    """What is learned before and behind the text of an answer."""

    lead: str
    mark: str


class Shapes:
    """Of one template. `spans` answers None until `learn` has seen answers in the same places."""

    def __init__(self) -> None:
        self._header: str | None = None
        self._regular = True
        self._around: dict[_Place, _Around] = {}

    def spans(self, text: str, turns: Sequence[Turn], wanted: Sequence[int]) -> Spans | None:
        """[start, end) in characters of the answers `wanted`, or None where it is not certain."""
        if not wanted:
            return ()
        if self._header is None or not self._regular:
            return None
        answers = [index for index, turn in enumerate(turns) if turn.is_answer]
        starts = [found.end() for found in re.finditer(re.escape(self._header), text)]
        if len(starts) != len(answers):
            return None
        start_of = dict(zip(answers, starts, strict=True))
        found = []
        for index in wanted:
            end = self._end(text, start_of[index], turns, index)
            if end is None:
                return None
            found.append((start_of[index], end))
        return tuple(found)

    def learn(self, text: str, turns: Sequence[Turn], index: int, answer: Answer) -> None:
        """Remember what is around an answer that was found in the long way."""
        content = turns[index].content
        learned = text[answer.start : answer.end]
        if turns[index].more or not content.strip() or learned.count(content) != 1:
            return
        if not answer.header or self._header not in (None, answer.header):
            self._regular = False
            return
        lead, _, mark = learned.partition(content)
        if mark:  # without one, nothing tells where an answer ends
            self._header = answer.header
            self._around[_place(turns, index)] = _Around(lead, mark)

    def _end(self, text: str, start: int, turns: Sequence[Turn], index: int) -> int | None:
        around = self._around.get(_place(turns, index))
        if around is None or turns[index].more:
            return None
        content = turns[index].content
        for said in (content, content.strip()):
            whole = around.lead + said + around.mark
            if text.startswith(whole, start):
                return start + len(whole)
        return None


def _place(turns: Sequence[Turn], index: int) -> _Place:
    before = turns[index - 1].role if index else ""
    behind = turns[index + 1].role if index + 1 < len(turns) else ""
    return before, behind
