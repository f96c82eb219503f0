"""Process groups that live as long as the test run: a test sends a function, every rank calls it.

`world(2).call(function, *arguments)` runs `function` on both ranks of a gloo group with real
DeepSpeed and returns what each rank returned. Functions live in importable test modules.
"""

import atexit
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any

ENVIRONMENT = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
_TIMEOUT = 300
_GRACE = 10  # seconds for the other ranks once one has failed


class WorldFailed(AssertionError):
    """A rank raised; carries its traceback."""


class RankPool:
    """`size` processes that have joined one process group."""

    def __init__(self, size: int) -> None:
        context, port = processes(), free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(  # no daemon: those may have no data workers
                target=_serve, args=(theirs, rank, size, port), name=f"rank{rank}"
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What every rank returned, in rank order. Raises WorldFailed with the first traceback."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        answers: dict[int, tuple[bool, Any]] = {}
        patience: float = _TIMEOUT
        while len(answers) < len(self._pipes):
            waiting = {p: r for r, p in enumerate(self._pipes) if r not in answers}
            ready = wait(list(waiting), patience)
            for pipe in ready:
                answers[waiting[pipe]] = _answer(pipe)
            failed = [rank for rank in sorted(answers) if answers[rank][0]]
            if failed and not ready:
                break
            if not ready:
                _discard(self)
                raise WorldFailed(f"ranks {[*waiting.values()]} do not answer after {_TIMEOUT} s")
            patience = _GRACE if failed else _TIMEOUT
        if failed:
            _discard(self)
            raise WorldFailed(f"rank {failed[0]}:\n{answers[failed[0]][1]}")
        return [answers[rank][1] for rank in range(len(self._pipes))]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _answer(pipe: Connection) -> tuple[bool, Any]:
    try:
        return pipe.recv()  # type: ignore[no-any-return]
    except EOFError:
        return True, "the process is dead"


_pools: dict[int, RankPool] = {}


def world(size: int) -> RankPool:
    """The pool of this size, started when first asked for."""
    if size not in _pools:
        _pools[size] = RankPool(size)
    return _pools[size]


def _discard(pool: RankPool) -> None:
    """A pool whose ranks may wait for each other in vain is of no more use."""
    pool.close()
    for size in [size for size, known in _pools.items() if known is pool]:
        del _pools[size]


def close_all() -> None:
    """End every pool that was started."""
    while _pools:
        _pools.popitem()[1].close()


atexit.register(close_all)


def processes() -> ForkServerContext:
    """What starts processes that have imported all of training already, in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def end(ranks: Sequence[BaseProcess], grace: float = 20) -> None:
    """As a launcher does: when one has ended, the others have so many seconds, and are killed."""
    limit = time.monotonic() + _TIMEOUT
    while all(process.is_alive() for process in ranks) and time.monotonic() < limit:
        time.sleep(0.02)
    deadline = time.monotonic() + grace
    for process in ranks:
        process.join(max(0.0, deadline - time.monotonic()))
        process.kill()
        process.join()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What a launcher tells a rank of a group on this machine."""
    facts = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(fact) for name, fact in facts.items()} | ENVIRONMENT


def join(rank: int, size: int, port: int) -> None:
    """Make this process a rank of a group on this machine."""
    os.environ.update(environment_of(rank, size, port))
    from bigpeft.train.engine import join_processes
    from bigpeft.world import read_world

    join_processes(read_world())


def _serve(pipe: Connection, rank: int, size: int, port: int) -> None:
    join(rank, size, port)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, function(*arguments)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
