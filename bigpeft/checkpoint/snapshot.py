"""What a checkpoint will hold: the state of a run as of one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from bigpeft.checkpoint.engine import Engine, accelerator
from bigpeft.checkpoint.meta import Meta
from bigpeft.checkpoint.rng import read_rng
from bigpeft.checkpoint.state import MOMENTS, name_of, training_state
from bigpeft.placement import Trained


@dataclass(frozen=True)
class Snapshot:
    """`slices`: name or name.moment → fp32, this rank's piece of the flattened whole. `rng`: this
    rank's random states. `state`: what else changes in training, equal on all ranks.
    """

    meta: Meta
    slices: Mapping[str, Tensor]
    rng: Mapping[str, Tensor]
    state: Mapping[str, Tensor]


class Camera:
    """Takes snapshots of one run; with `copies` they outlive the steps after them.

    The copies' memory is used again for the next snapshot, so one can be had at a time.
    """

    def __init__(
        self,
        engine: Engine,
        parameters: Sequence[Trained],
        state: Mapping[str, Tensor],
        copies: bool,
    ) -> None:
        self._engine, self._parameters, self._state = engine, parameters, state
        self._copies: dict[str, Tensor] | None = {} if copies else None

    def take(self, meta: Meta) -> Snapshot:
        """As of now. Collective over all ranks where ZeRO does not cut as a checkpoint does."""
        training = training_state(self._engine)
        slices = {
            name_of(item, moment): training.slice(item.parameter, moment)
            for item in self._parameters
            for moment in (None, *MOMENTS)
        }
        held = {name: self._held(name, piece) for name, piece in slices.items()}
        state = {name: tensor.detach().cpu().clone() for name, tensor in self._state.items()}
        if self._copies is not None:
            accelerator().synchronize()
        return Snapshot(meta, held, read_rng(self._engine.device), state)

    def _held(self, name: str, piece: Tensor) -> Tensor:
        if self._copies is None:
            return piece.cpu()
        if name not in self._copies:
            empty = piece.new_empty(piece.shape, device="cpu")
            self._copies[name] = accelerator().pin_memory(empty)
        return self._copies[name].copy_(piece, non_blocking=True)
