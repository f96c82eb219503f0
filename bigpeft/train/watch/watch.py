"""The thread of each rank that ends the run when one rank cannot go on."""

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from torch.distributed import DistError

from bigpeft.train.terminal import Terminal
from bigpeft.train.watch.board import Board, BoardLost
from bigpeft.train.watch.ending import FAILURE, Ending, ending_of
from bigpeft.train.watch.pulse import Beat, Pulse
from bigpeft.train.watch.speaks_first import TIME_TO_SPEAK, speaks_first
from bigpeft.train.watch.ward import Finding, Ward
from bigpeft.world import World

EVERY = 1.0
SILENCE = 20.0
"""Seconds without a beat after which a rank is dead: less than the launcher's 30 of grace."""
_TIME_TO_LEAVE = 10.0
_FOR_AN_ANSWER = 5.0


class Watch:
    """Watches over a run from `start` to `stop`; before and after, ranks fail one by one."""

    def __init__(self, world: World, terminal: Terminal) -> None:
        self.pulse = Pulse()
        self._world, self._terminal = world, terminal
        self._board: Board | None = None
        self._folder = Path()
        self._silence = SILENCE
        self._stopped = threading.Event()
        self._leaving = threading.Lock()

    def start(self, folder: Path, patience: float) -> None:
        """Watch a run of several ranks, which have joined. Collective.

        When no rank moves for `patience` seconds all end. `folder` is the run's.
        """
        if self._world.size == 1:
            return
        self._folder, self._silence = folder, min(SILENCE, patience)
        self._board = Board(self._world, self._silence)
        self._post(self._board)
        self._board.meet()
        ward = Ward(self._silence, patience, time.monotonic())
        keep = (self._board, ward)
        threading.Thread(target=self._keep, args=keep, name="watch", daemon=True).start()

    def stop(self) -> None:
        """The run is over. Collective."""
        if self._board is not None:
            self._board.meet()
            self._stopped.set()
            self._board = None

    def fail(self, text: str, code: int, error: BaseException | None = None) -> NoReturn:
        """End all ranks: with this, or with a better reason where `error` is an echo of one."""
        if self._board is None:
            if speaks_first(self._world):
                self._terminal.shout(text)
            _exit(self._terminal, code)
        if _is_echo(error):
            self._stopped.wait(self._silence + _FOR_AN_ANSWER)
        self._end(self._board, Ending(self._world.rank, text, code))

    def _keep(self, board: Board, ward: Ward) -> None:
        while not self._stopped.wait(EVERY):
            try:
                self._post(board)
                told = board.ending()
                if told is not None:
                    self._leave(told)
                if self._world.is_first:
                    now = time.monotonic()
                    ward.hear(board.beats(), now)
                    found = ward.finding(now)
                    if found is not None:
                        self._end(board, ending_of(found, self._world.rank, self._folder))
            except BoardLost:
                if not self._stopped.is_set():
                    self._leave_without_the_first(board)

    def _post(self, board: Board) -> None:
        board.post(self.pulse.beat(self._world.rank, self._world.host))

    def _end(self, board: Board, ending: Ending) -> NoReturn:
        try:
            self._leave(board.end(ending))
        except BoardLost:
            self._leave_without_the_first(board)

    def _leave_without_the_first(self, board: Board) -> NoReturn:
        """On each node the first to know it says so: there is nowhere left to agree."""
        first = Beat(0, board.host, 0, 0, self.pulse.doing, "", False)
        found = Finding((first,), "does not answer")
        speaker = self._world.rank if speaks_first(self._world) else 0
        self._leave(ending_of(found, speaker, self._folder))

    def _leave(self, ending: Ending) -> NoReturn:
        """Once, whichever thread comes first; a disk that hangs does not keep the rank alive.

        The launcher ends all ranks at the first exit, and the board ends with the first rank: none
        leaves before the others can have read the ending and its speaker has spoken.
        """
        self._leaving.acquire()
        threading.Timer(_TIME_TO_LEAVE, os._exit, (ending.code,)).start()
        if ending.speaker == self._world.rank:
            self._terminal.shout(ending.text)
            with suppress(OSError):
                (self._folder / FAILURE).write_text(f"{ending.text}\n")
        time.sleep(TIME_TO_SPEAK)
        _exit(self._terminal, ending.code)


def _is_echo(error: BaseException | None) -> bool:
    """Whether it only tells that other ranks are gone."""
    if not isinstance(error, RuntimeError):
        return False
    return isinstance(error, DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


def _exit(terminal: Terminal, code: int) -> NoReturn:
    """Without waiting for collectives that other ranks may never join."""
    terminal.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
