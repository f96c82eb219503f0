"""FlexLoRA, triplets that move from linear to linear (ICLR 2026, arXiv 2601.22905).

    W' = W + (alpha / rank) · B diag(mask ⊙ E) A

Every linear has `max_rank` slots for triplets, of which `rank` are open at first. Trains slots ·
(in_features + out_features) + slots numbers per linear and starts as the identity: A and B normal
with deviation 0.02, E zero. The scaling keeps the initial rank.

The entropy of a linear is that of p_k = E_k² / Σ E² over its open slots, divided by the logarithm
of their number, at least log 2; it is 0 where there is one slot or E is zero. Every `interval`
steps, between warmup_share and 1 - final_share of the run, up to

    b(t) = exchanges · (1 - progress³)        rounded

linears of lowest entropy with more than one open slot lose the one with the smallest |E|, and as
many of highest entropy with a closed slot open one: E = 0, fresh vectors, Adam's moments zero. A
pair is exchanged only if the loser's entropy is the lower, so no linear is on both sides, and the
number of open slots never changes.

The authors' code differs: it drops the most negative E, draws vectors with deviation 1, divides by
log 1, may take and give at the same linear, holds b(t) at its start unless told otherwise, replaces
parameters by others of another shape, and so loses all of Adam's moments and the schedule of the
learning rate each time. The penalty is theirs, as in adalora, over open slots.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from bigpeft.methods.base import MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.shapes import refuse_rank_above_sides
from bigpeft.methods.step import Step, StepTensors
from bigpeft.methods.triplets import START, TripletOptions, Triplets, one
from bigpeft.world import stable_seed


class FlexLoRA(Triplets):
    """Low-rank extension that moves ranks to the linears that use all of theirs."""

    class Options(TripletOptions):
        """The triplets' options, the room to grow, and how many linears change at once."""

        rank: PositiveInt = Field(8, description="open slots per linear at the start")
        max_rank: PositiveInt | None = Field(
            None,
            description="slots per linear, twice the rank if not set; a smaller W has fewer",
        )
        exchanges: PositiveInt = Field(4, description="slots that move at once at first")
        orth_weight: NonNegativeFloat = Field(
            0.1,
            description="weight of the penalty on factors that are not orthonormal; 0 turns it "
            "off, a section mpc takes its place",
        )

        @model_validator(mode="after")
        def _has_room(self) -> Self:
            if self.max_rank is not None and self.max_rank < self.rank:
                raise ValueError(f"max_rank {self.max_rank} is below rank {self.rank}")
            return self

    family = "extension"
    source = "arXiv 2601.22905"
    moves = "a change whose rank differs from linear to linear, with a fixed sum"
    when = "runs of some hundred steps, and linears that do not matter alike"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        refuse_rank_above_sides(linear, options.rank)
        super().__init__(linear, options, _slots(options, linear))
        self.exchanges = options.exchanges

    def inner(self, z: Tensor) -> Tensor:
        """Mask ⊙ E ⊙ z."""
        return z * (self.mask * self.lora_E).to(z.dtype)

    @classmethod
    @torch.no_grad()
    def after_step(cls, seats: Sequence[Self], step: Step) -> None:
        """Exchange slots at every interval."""
        pace = one((seat.pace for seat in seats), "interval, warmup_share or final_share")
        exchanges = one((seat.exchanges for seat in seats), "exchanges")
        if not pace.due(step.number, step.total):
            return
        exchanges = round(exchanges * (1 - pace.progress(step.number, step.total) ** 3))
        values = [step.tensors.read(seat.lora_E, None).cpu() for seat in seats]
        masks = [seat.mask.cpu() > 0 for seat in seats]
        entropies = [entropy(v[open_]) for v, open_ in zip(values, masks, strict=True)]
        for loser, gainer in pairs(entropies, masks, exchanges):
            smallest = values[loser].abs().where(masks[loser], math.inf).argmin()
            seats[loser].close(step.tensors, int(smallest))
            first_closed = masks[gainer].long().argmin()
            seats[gainer].open(step, int(first_closed), gainer)

    def close(self, tensors: StepTensors, slot: int) -> None:
        """Close a slot; without gradient or moments its E stays zero."""
        self.mask[slot] = 0
        _refill(tensors, self.lora_E, slot, torch.zeros(()))

    def open(self, step: Step, slot: int, seat: int) -> None:
        """Open a slot. Its vectors are a function of the step and the number of the seat."""
        generator = torch.Generator().manual_seed(stable_seed(step.number, str(seat)))
        row = START * torch.randn(self.lora_A.shape[1], generator=generator)
        column = START * torch.randn(self.lora_B.shape[0], generator=generator)
        self.mask[slot] = 1
        _refill(step.tensors, self.lora_A, slot, row)
        _refill(step.tensors, self.lora_B, slot, column, dim=1)
        _refill(step.tensors, self.lora_E, slot, torch.zeros(()))

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """Slots · (in_features + out_features) + slots; slots = min(max_rank, sides of W)."""
        assert isinstance(options, FlexLoRA.Options)
        slots = {"rank": _slots(options, linear)}
        return super().count(options.model_copy(update=slots), linear)


def entropy(values: Tensor) -> float:
    """Of the shares of squares of E over the open slots (slots), from 0 to 1."""
    squares = values.double().square()
    total = squares.sum()
    if total == 0:
        return 0.0
    found = torch.special.entr(squares / total).sum() / math.log(max(2, len(values)))
    return float(found)


def pairs(
    entropies: Sequence[float], masks: Sequence[Tensor], exchanges: int
) -> list[tuple[int, int]]:
    """(loser, gainer) of up to so many exchanges, indices of seats."""
    order = sorted(range(len(entropies)), key=lambda seat: (entropies[seat], seat))
    losers = [seat for seat in order if masks[seat].sum() > 1]
    gainers = [seat for seat in reversed(order) if not masks[seat].all()]
    chosen = zip(losers[:exchanges], gainers[:exchanges], strict=False)
    return [(low, high) for low, high in chosen if entropies[low] < entropies[high]]


def _refill(
    tensors: StepTensors, parameter: nn.Parameter, slot: int, value: Tensor, dim: int = 0
) -> None:
    """Set the slot's numbers in the master, and zero in both moments."""
    for key, numbers in ((None, value), ("exp_avg", None), ("exp_avg_sq", None)):
        whole = tensors.read(parameter, key).clone()
        place = whole.select(dim, slot)
        place.copy_(torch.zeros(()) if numbers is None else numbers)
        tensors.write(parameter, key, whole)


def _slots(options: FlexLoRA.Options, linear: FrozenLinear) -> int:
    wanted = options.max_rank or 2 * options.rank
    return min(wanted, linear.in_features, linear.out_features)
