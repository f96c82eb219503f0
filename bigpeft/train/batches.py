"""The micro-batches of a rank of any step: a pure function of the rows that were seen before."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bigpeft.data import Packed, Padded, pack, sample_indices, share
from bigpeft.plan import Plan
from bigpeft.train.inputs import Inputs
from bigpeft.train.saving import Position

Units = Padded | Packed
"""What batch sizes count: rows, or packs of them."""


def units_of(inputs: Inputs, plan: Plan) -> Units:
    """The training rows as the recipe wants them side by side."""
    data = plan.recipe.data
    if not data.packing:
        return Padded(inputs.tokens, inputs.pad_id)
    packs = pack(inputs.tokens.offsets.diff(), data.max_length)
    return Packed(inputs.tokens, packs, inputs.pad_id, flat=plan.flash)


class Batches(Dataset[list[dict[str, Tensor]]]):
    """Global step → the micro-batches of this rank, in a run that goes on from `start`."""

    def __init__(self, units: Units, plan: Plan, start: Position) -> None:
        self._units, self._plan, self._start = units, plan, start
        self._lengths = units.lengths() if plan.recipe.data.group_by_length else None

    def __getitem__(self, step: int) -> list[dict[str, Tensor]]:
        """Micro-batches of optimizer step `step` (from 0)."""
        recipe, world = self._plan.recipe, self._plan.world
        size = recipe.batch.global_size
        first = self._start.rows_before(step, size)
        rows = sample_indices(
            len(self._units), recipe.run.seed, recipe.data.shuffle, first, size, self._lengths
        )
        if self._lengths is not None:
            rows.sort(key=self._lengths.__getitem__)
        mine = share(rows, world.rank, world.size, recipe.batch.micro_size)
        return [self._units.batch(part) for part in mine]

    def of_steps(self, steps: range) -> Iterator[list[dict[str, Tensor]]]:
        """Those of each of these steps in turn, made ahead by data.workers processes."""
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=steps,
                num_workers=self._plan.recipe.data.workers,
                pin_memory=torch.accelerator.is_available(),
            )
        )
