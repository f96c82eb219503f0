"""The micro-batches of a rank of any step: a pure function of the rows that were seen before."""

from torch import Tensor

from bigpeft.data import Tokens, collate, sample_indices, share
from bigpeft.plan import Plan
from bigpeft.train.saving import Position


class Batches:
    """Global step → the micro-batches of this rank, in a run that goes on from `start`."""

    def __init__(self, tokens: Tokens, pad_id: int, plan: Plan, start: Position) -> None:
        self._tokens, self._pad_id, self._plan, self._start = tokens, pad_id, plan, start

    def of_step(self, step: int) -> list[dict[str, Tensor]]:
        """Micro-batches of optimizer step `step` (from 0)."""
        recipe, world = self._plan.recipe, self._plan.world
        size = recipe.batch.global_size
        first = self._start.rows_before(step, size)
        rows = sample_indices(len(self._tokens), recipe.run.seed, recipe.data.shuffle, first, size)
        mine = share(rows, world.rank, world.size, recipe.batch.micro_size)
        return [collate(self._tokens, part, self._pad_id) for part in mine]
