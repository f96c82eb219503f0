"""The micro-batches of a rank out of rows that are read while the run goes on."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from torch import Tensor

from bigpeft.data import Item, sample_indices, share
from bigpeft.plan import Plan
from bigpeft.train.rows import Windows
from bigpeft.train.saving import InStream, Position
from bigpeft.train.units import Units, side_by_side


class Streamed:
    """Steps in turn, from where `start` left the stream. Every rank reads all rows and takes its
    share of each step, so the ranks need not talk; the next window is read, and tokenised, behind
    the training. A window has an order of its own, a function of the seed and its number.
    """

    def __init__(self, windows: Windows, pad_id: int, plan: Plan, start: Position) -> None:
        self._plan, self._pad_id = plan, pad_id
        self._at = start.stream or InStream()
        self._windows = windows(self._at.place)
        self._behind = ThreadPoolExecutor(1)
        self._next = self._behind.submit(next, self._windows)

    def __str__(self) -> str:
        return f"rows as they come, {self._plan.recipe.data.window} at a time"

    def __len__(self) -> int:
        """Of an epoch: not known, and not asked for, since train.steps is given."""
        return 0

    @property
    def position(self) -> InStream:
        """Behind the step that was given last."""
        return self._at

    def of_steps(self, steps: range) -> Iterator[list[dict[str, Tensor]]]:
        """Micro-batches of this rank of each of these steps."""
        recipe, world = self._plan.recipe, self._plan.world
        units, order = self._window(self._at.used)
        for _ in steps:
            items: list[Item] = []
            while missing := recipe.batch.global_size - len(items):
                if not order:
                    units, order = self._window(0)
                taken, order = order[:missing], order[missing:]
                items += map(units.item, taken)
                self._at = replace(self._at, used=self._at.used + len(taken))
            if recipe.data.group_by_length:
                items.sort(key=lambda item: len(item[0]))
            mine = share(items, world.rank, world.size, recipe.batch.micro_size)
            yield [units.batch(part) for part in mine]

    def _window(self, used: int) -> tuple[Units, list[int]]:
        """The next window, and what is left of its order behind the first `used` units."""
        window = self._next.result()
        self._next = self._behind.submit(next, self._windows)
        self._at = InStream(window.place, used)
        units, data = side_by_side(window.tokens, self._pad_id, self._plan), self._plan.recipe.data
        lengths = units.lengths() if data.group_by_length else None
        start, seed = window.place.windows * len(units), self._plan.recipe.run.seed
        order = sample_indices(len(units), seed, data.shuffle, start, len(units), lengths)
        return units, order[used:]
