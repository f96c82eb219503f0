"""Who of all ranks is dead or stuck, judged from their beats alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from bigpeft.train.watch.pulse import Beat


@dataclass(frozen=True)
class Finding:
    """The ranks that hold up the run, by their last beats, and what is wrong with them."""

    ranks: tuple[Beat, ...]
    why: str


class Ward:
    """Hears beats; all times are seconds of any one clock.

    A rank is dead when no new beat came for `silence`. When no rank has moved for `patience`, those
    are stuck that are in no collective; where that tells nothing, those that have moved least.
    """

    def __init__(self, silence: float, patience: float, now: float) -> None:
        self._silence, self._patience = silence, patience
        self._heard: dict[int, tuple[Beat, float]] = {}
        self._moved = now

    def hear(self, beats: Sequence[Beat], now: float) -> None:
        """The newest beat of each rank, heard of before or not."""
        for beat in beats:
            before = self._heard.get(beat.rank)
            if before is None or before[0].count != beat.count:
                self._heard[beat.rank] = beat, now
            if before is None or before[0].moves != beat.moves or beat.lasts:
                self._moved = now

    def finding(self, now: float) -> Finding | None:
        """What is wrong, None while nothing is."""
        dead = [beat for beat, heard in self._heard.values() if now - heard > self._silence]
        if dead:
            return Finding(tuple(dead), f"nothing was heard from there for {self._silence:g} s")
        if now - self._moved <= self._patience:
            return None
        beats = [beat for beat, _ in self._heard.values()]
        stuck = _stuck(beats)
        why = f"has not moved for {self._patience:g} s (train.timeout)"
        if len(stuck) == len(beats):
            return Finding(stuck, f"{why}: all ranks wait for each other")
        return Finding(stuck, f"{why}, and the others wait for it")


def _stuck(beats: Sequence[Beat]) -> tuple[Beat, ...]:
    busy = tuple(beat for beat in beats if not beat.waits)
    if busy and len(busy) < len(beats):
        return busy
    least = min(beat.moves for beat in beats)
    return tuple(beat for beat in beats if beat.moves == least)
