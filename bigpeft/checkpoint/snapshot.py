"""What a checkpoint will hold: the state of a run as of one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from bigpeft.checkpoint.engine import Engine, accelerator
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.rng import read_rng
from bigpeft.checkpoint.stages import training_state
from bigpeft.checkpoint.state import MOMENTS, name_of
from bigpeft.placement import Trained


@dataclass(frozen=True)
class Snapshot:
    """`slices`: name or name.moment → fp32, this rank's piece of the flattened whole, true until
    the next update. `rng`: this rank's random states. `state`: what else changes in training, equal
    on all ranks.
    """

    meta: Meta
    slices: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]
    state: Mapping[str, Tensor]


def take_snapshot(
    engine: Engine, parameters: Sequence[Trained], state: Mapping[str, Tensor], meta: Meta
) -> Snapshot:
    """As of now. Collective over all ranks where ZeRO does not cut as a checkpoint does."""
    training = training_state(engine)
    slices = {
        name_of(item, moment): training.slice(item.parameter, moment)
        for item in parameters
        for moment in (None, *MOMENTS)
    }
    kept = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    return Snapshot(meta, slices, read_rng(engine.device), kept)


class HostCopies:
    """Copies of slices that outlive the next updates, in memory that is used for one snapshot
    after another.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def of(self, snapshot: Snapshot) -> Snapshot:
        """The same snapshot, on the host."""
        copies = {name: self._copied(name, piece) for name, piece in snapshot.slices.items()}
        accelerator().synchronize()
        return replace(snapshot, slices=copies)

    def _copied(self, name: str, piece: Tensor) -> Tensor:
        if name not in self._kept:
            empty = piece.new_empty(piece.shape, device="cpu")
            self._kept[name] = accelerator().pin_memory(empty)
        return self._kept[name].copy_(piece, non_blocking=True)
