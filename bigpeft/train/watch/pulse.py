"""How far a rank has come: told by its main thread, read by its watch."""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import bigpeft

_WAITING = ("/torch/distributed/", "/deepspeed/", "/threading.py")
_OURS = str(Path(bigpeft.__file__).parent)


@dataclass(frozen=True)
class Beat:
    """What one rank tells of itself.

    `count` grows with each beat, `moves` whenever its main thread gets on. `place` is the line of
    bigpeft that the thread is at, and `waits` whether it is in a collective beyond it, or
    waits for a thread that may be. What `lasts` may take any time.
    """

    rank: int
    host: str
    count: int
    moves: int
    doing: str
    place: str
    waits: bool
    lasts: bool = False


class Pulse:
    """To be made in the main thread, whose moves it counts."""

    def __init__(self) -> None:
        self.doing, self._lasts = "starting", False
        self._main = threading.get_ident()
        self._moves, self._beats = 0, 0
        self._counters: list[Callable[[], int]] = []

    def begins(self, doing: str, lasts: bool = False) -> None:
        """The main thread turns to something else, such as `step 7`; it may take any time if it
        `lasts`.
        """
        self.doing, self._lasts = doing, lasts
        self.moved()

    def moved(self) -> None:
        """It got on with what it does."""
        self._moves += 1

    def counts(self, counter: Callable[[], int]) -> None:
        """Take what this returns for moves too. Called from the watch's thread."""
        self._counters.append(counter)

    def beat(self, rank: int, host: str) -> Beat:
        """Where it stands now. Called from the watch's thread."""
        self._beats += 1
        moves = self._moves + sum(counter() for counter in self._counters)
        place, waits = _where(sys._current_frames().get(self._main))
        return Beat(rank, host, self._beats, moves, self.doing, place, waits, self._lasts)


def _where(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line of bigpeft, and whether the thread waits for others beyond it."""
    waits = frame is not None and any(part in frame.f_code.co_filename for part in _WAITING)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_OURS):
            return (
                f"{frame.f_code.co_name} ({Path(path).relative_to(_OURS)}:{frame.f_lineno})",
                waits,
            )
        frame = frame.f_back
    return "", waits
