"""One streaming pass over the weights: read, start, pack, send, cut, free. Nobody holds the model.

Work is dealt in rounds of one tensor per rank, equal in size since the slots are sorted by it.
Each rank reads and packs its own tensor, a round ahead of the broadcasts; so reading and
quantising are split over the ranks, every byte is read once, and a rank holds its shard and about
three tensors.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from bigpeft.backbone.partition import Partition
from bigpeft.backbone.reader import WeightSource
from bigpeft.backbone.skeleton import rebuild_buffers
from bigpeft.backbone.slots import Slot, fill_slots
from bigpeft.errors import UserError, WeightError
from bigpeft.methods import LinearMethod, Method


class Loader:
    """Fills a skeleton. `starts`: (module, attribute) of a weight → the method that wants it."""

    def __init__(
        self,
        source: WeightSource,
        partition: Partition,
        device: torch.device,
        dtype: torch.dtype,
        starts: Mapping[tuple[nn.Module, str], Method],
    ) -> None:
        self._source, self._partition = source, partition
        self._device, self._dtype, self._starts = device, dtype, starts
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._world = dist.get_world_size() if dist.is_initialized() else 1

    def fill(self, model: PreTrainedModel) -> None:
        """Load every tensor of the model and cut it. The same error is raised on all ranks."""
        rebuild_buffers(model, self._device)
        slots = fill_slots(model, self._source.shapes())
        rounds = [slots[i : i + self._world] for i in range(0, len(slots), self._world)]
        with torch.no_grad(), ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._prepare, rounds[0])
            for number, slots_of_round in enumerate(rounds):
                mine = ahead.result()
                if number + 1 < len(rounds):
                    ahead = reader.submit(self._prepare, rounds[number + 1])
                self._raise_together(mine)
                for owner, slot in enumerate(slots_of_round):
                    self._send(slot, owner, mine if owner == self._rank else None)
                del mine
        for parameter in model.parameters():
            self._partition.keep(parameter)

    def _prepare(self, round_: list[Slot]) -> list[Tensor] | UserError:
        """The tensor of this rank, ready to send; runs in the reader's thread."""
        if self._rank >= len(round_):
            return []
        slot = round_[self._rank]
        try:
            with torch.no_grad():
                return self._ready(slot)
        except UserError as error:
            return error

    def _ready(self, slot: Slot) -> list[Tensor]:
        tensor = self._source.read(slot.key).to(self._device)
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise WeightError(slot.key, "holds NaN or infinite numbers", "use other weights")
        linear, method = slot.linear, self._starter(slot)
        if linear is None:
            kept = tensor if method is None else method.start(tensor)
            kept = kept.to(self._dtype) if kept.is_floating_point() else kept
            return [kept, *_state(method)]
        weight = tensor.t().contiguous() if linear.transposed else tensor
        codec = linear.base.codec
        if method is None:
            return [codec.encode(weight)]
        packed = codec.encode(method.start(weight.float()))
        if isinstance(method, LinearMethod):
            method.measure(codec.decode(packed, linear.base.shape, torch.float32))
        return [packed, *_state(method)]

    def _starter(self, slot: Slot) -> Method | None:
        """The method that starts from this slot's weight."""
        return next((self._starts[place] for place in slot.places if place in self._starts), None)

    def _send(self, slot: Slot, owner: int, mine: list[Tensor] | UserError | None) -> None:
        """Give every rank the slot's tensors, install them, cut the weight."""
        module, attribute = slot.places[0]
        old = getattr(module, attribute)
        dtype = self._dtype if old.is_floating_point() else old.dtype
        if isinstance(mine, list):
            tensor, *started = mine
        else:
            tensor, started = torch.empty(old.shape, dtype=dtype, device=self._device), None
        self._broadcast(tensor, owner)
        targets = _state(self._starter(slot))
        for target, value in zip(targets, started or targets, strict=True):
            self._broadcast(value, owner)
            target.copy_(value)
        _install(slot, tensor, old)
        installed = getattr(module, attribute)
        if isinstance(installed, nn.Parameter):
            self._partition.keep(installed)

    def _broadcast(self, tensor: Tensor, owner: int) -> None:
        if self._world > 1:
            dist.broadcast(tensor, src=owner)

    def _raise_together(self, mine: list[Tensor] | UserError) -> None:
        """Raise the first rank's error on every rank, so that none waits for it in vain."""
        error = mine if isinstance(mine, UserError) else None
        if self._world > 1:
            failed = torch.tensor([int(error is not None)], device=self._device)
            dist.all_reduce(failed)
            if failed.item():
                errors: list[UserError | None] = [None] * self._world
                dist.all_gather_object(errors, error)
                error = next(e for e in errors if e is not None)
        if error is not None:
            raise error


def _install(slot: Slot, tensor: Tensor, old: Tensor) -> None:
    """Put the loaded tensor in every place that shares it."""
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    for module, attribute in slot.places:
        table = module._parameters if isinstance(old, nn.Parameter) else module._buffers
        table[attribute] = tensor  # type: ignore[assignment]


def _state(method: Method | None) -> list[Tensor]:
    """A method's own tensors, to be written in place."""
    return [] if method is None else [t.data for t in method.state_dict(keep_vars=True).values()]


def _is_finite(tensor: Tensor) -> bool:
    """Without a mask as large as the tensor: NaN and infinity both reach the extremes."""
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
