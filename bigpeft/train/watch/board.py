"""Where ranks leave their beats, and the first ending: a store of its own on the first rank."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from bigpeft.train.watch.ending import Ending
from bigpeft.train.watch.pulse import Beat
from bigpeft.world import World, meeting_place

_ENDING = "ending"


class BoardLost(Exception):
    """The first rank, which keeps the board, does not answer."""


class Board:
    """Each call ends within `deadline` seconds, by BoardLost if need be.

    Apart from torch's own store, whose calls would wait for each other. `host` is the first rank's.
    """

    def __init__(self, world: World, deadline: float) -> None:
        """Collective over all ranks, which have joined."""
        self._size, self._deadline = world.size, deadline
        self._worker = ThreadPoolExecutor(1)
        place: list[Any] = [0, world.host]
        if world.is_first:
            self._store = _store("localhost", 0, True, deadline)
            place[0] = self._store.port
        dist.broadcast_object_list(place)
        port, self.host = place
        if not world.is_first:
            self._store = _store(meeting_place(), port, False, deadline)

    def post(self, beat: Beat) -> None:
        """Put up this rank's newest beat."""
        self._call(lambda: self._store.set(f"beat-{beat.rank}", _packed(beat)))

    def beats(self) -> list[Beat]:
        """The newest of each rank; every rank has posted one."""
        names = [f"beat-{rank}" for rank in range(self._size)]
        texts = self._call(lambda: self._store.multi_get(names))
        return [Beat(**json.loads(text)) for text in texts]

    def end(self, ending: Ending) -> Ending:
        """Put up an ending; returns the one that was there first, which counts."""
        text = _packed(ending)
        return _ending(self._call(lambda: self._store.compare_set(_ENDING, "", text)))

    def ending(self) -> Ending | None:
        """The one that counts, None while the run goes on."""
        there = self._call(lambda: self._store.check([_ENDING]))
        return _ending(self._call(lambda: self._store.get(_ENDING))) if there else None

    def meet(self) -> None:
        """Wait for all ranks."""
        dist.barrier()

    def _call(self, ask: Callable[[], Any]) -> Any:
        """A call over the network to a machine that has lost its power returns never."""
        try:
            return self._worker.submit(ask).result(self._deadline)
        except (RuntimeError, Late) as error:
            raise BoardLost from error


def _packed(told: Beat | Ending) -> str:
    return json.dumps(asdict(told))


def _ending(text: bytes) -> Ending:
    return Ending(**json.loads(text))


def _store(host: str, port: int, keeps: bool, deadline: float) -> Any:
    return TCPStore(host, port, None, keeps, timedelta(seconds=deadline), wait_for_workers=False)
