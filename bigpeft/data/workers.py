"""Work on many chunks in several processes, results in order, memory bounded."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")
_ALONE = 4
"""Chunks that are done here before processes are worth their start."""
_AHEAD = 3
"""Chunks per process that wait or are worked on."""

_work: Callable[[Any], Any] | None = None


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def in_order(work: Callable[[A], B], chunks: Iterable[A], processes: int) -> Iterator[B]:
    """`work` of each chunk, in the order of the chunks. Raises what `work` raises.

    Processes are forks, so that `work` need not be pickled; they must not touch an accelerator.
    """
    rest = iter(chunks)
    for chunk in islice(rest, _ALONE if processes > 1 else None):
        yield work(chunk)
    for first in rest:
        yield from _spread(work, chain([first], rest), processes)


def _spread(work: Callable[[A], B], chunks: Iterable[A], processes: int) -> Iterator[B]:
    waiting: deque[Future[B]] = deque()
    fork = multiprocessing.get_context("fork")
    with (
        _one_thread_each(),
        ProcessPoolExecutor(processes, fork, initializer=_become, initargs=(work,)) as pool,
    ):
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_do, chunk))
                if len(waiting) > _AHEAD * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that share the cores among them; `tokenizers` would start as many threads each."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _become(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _do(chunk: Any) -> Any:
    assert _work is not None
    return _work(chunk)
