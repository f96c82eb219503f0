"""The micro-batches of a rank of any step: a pure function of the rows that were seen before."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bigpeft.data import sample_indices, share
from bigpeft.plan import Plan
from bigpeft.train.saving import Position
from bigpeft.train.units import Units


class Batches(Dataset[list[dict[str, Tensor]]]):
    """Global step → the micro-batches of this rank, in a run that goes on from `start`."""

    position = None
    """In no stream: the step says it all."""

    def __init__(self, units: Units, plan: Plan, start: Position) -> None:
        recipe, world = plan.recipe, plan.world
        self._units, self._start = units, start
        self._size, self._micro_size = recipe.batch.global_size, recipe.batch.micro_size
        self._seed, self._shuffle = recipe.run.seed, recipe.data.shuffle
        self._rank, self._ranks = world.rank, world.size
        self._workers = recipe.data.workers
        self._lengths = units.lengths() if recipe.data.group_by_length else None

    def __len__(self) -> int:
        """What an epoch has."""
        return len(self._units)

    def __str__(self) -> str:
        return str(self._units)

    def __getitem__(self, step: int) -> list[dict[str, Tensor]]:
        """Micro-batches of optimizer step `step` (from 0)."""
        first = self._start.rows_before(step, self._size)
        rows = sample_indices(
            len(self._units), self._seed, self._shuffle, first, self._size, self._lengths
        )
        if self._lengths is not None:
            rows.sort(key=self._lengths.__getitem__)
        mine = share(rows, self._rank, self._ranks, self._micro_size)
        return [self._units.batch([self._units.item(i) for i in part]) for part in mine]

    def of_steps(self, steps: range) -> Iterator[list[dict[str, Tensor]]]:
        """Those of each of these steps in turn, made ahead where there are workers."""
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=steps,
                num_workers=self._workers,
                multiprocessing_context="fork" if self._workers else None,  # rows are shared
                pin_memory=torch.accelerator.is_available(),
                generator=torch.Generator(),  # or it draws from the one that dropout needs
            )
        )
