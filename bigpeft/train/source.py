"""Where a run's micro-batches come from: rows that are all there, or a stream of them."""

from bigpeft.plan import Plan
from bigpeft.train.batches import Batches
from bigpeft.train.inputs import Inputs
from bigpeft.train.saving import Position
from bigpeft.train.streamed import Streamed

MicroBatches = Batches | Streamed


def make_batches(inputs: Inputs, plan: Plan, start: Position) -> MicroBatches:
    """Of the training rows, from where the run goes on."""
    if inputs.units is None:
        return Streamed(inputs.stream, inputs.pad_id, plan, start)
    return Batches(inputs.units, plan, start)
