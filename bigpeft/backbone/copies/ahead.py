"""A bounded pipeline: results in order, a few of them made ahead by other threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    make: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    size: Callable[[Item], float] = lambda item: 1.0,
) -> Iterator[Result]:
    """make(item) for each item in order, by `workers` threads of one core each.

    The sizes of results that exist at a time, with the one that the caller holds, add up to no more
    than `workers`.
    """
    waiting: deque[tuple[Future[Result], float]] = deque()
    held = 0.0
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for item in items:
                waiting.append((pool.submit(make, item), size(item)))
                held += size(item)
                while waiting and held >= workers:
                    future, given = waiting.popleft()
                    yield future.result()
                    held -= given
            while waiting:
                yield waiting.popleft()[0].result()
        finally:
            for future, _ in waiting:
                future.cancel()
