"""One streaming pass over the weights: read, start, pack, send, cut, free. Nobody holds the model.

Work is dealt in rounds of one tensor per reader, equal in size since the slots are sorted by it.
Each rank reads and packs its own tensor, a round ahead of the broadcasts; so reading and
quantising are split over the ranks, every byte is read once, and a rank holds its shard and about
three tensors. The readers are all ranks of the world, or, where nothing shall cross between nodes,
those of each node.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from bigpeft.backbone.copies.quantize import finite, packed_or_dense
from bigpeft.backbone.fingerprint import Fingerprint, fingerprint
from bigpeft.backbone.linear import PackedLinear
from bigpeft.backbone.partition import Partition
from bigpeft.backbone.readers import Readers
from bigpeft.backbone.skeleton import rebuild_buffers
from bigpeft.backbone.slots import Slot, fill_slots
from bigpeft.backbone.sources import WeightSource
from bigpeft.errors import UserError
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
        readers: Readers | None = None,
    ) -> None:
        self._source, self._partition = source, partition
        self._device, self._dtype, self._starts = device, dtype, starts
        self._readers = readers or Readers.of_world()

    def fill(self, model: PreTrainedModel, moved: Callable[[], None] = lambda: None) -> Fingerprint:
        """Load every tensor of the model and cut it; returns which model it turned out to be.

        `moved` is called after each round. The same error is raised on all ranks.
        """
        rebuild_buffers(model, self._device)
        slots = fill_slots(model, self._source.shapes())
        count = self._readers.count
        rounds = [slots[i : i + count] for i in range(0, len(slots), count)]
        with torch.no_grad(), ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._prepare, rounds[0])
            for number, slots_of_round in enumerate(rounds):
                mine = ahead.result()
                if number + 1 < len(rounds):
                    ahead = reader.submit(self._prepare, rounds[number + 1])
                _raise_together(mine, self._device)
                for owner, slot in enumerate(slots_of_round):
                    self._send(slot, owner, mine if owner == self._readers.place else None)
                del mine
                moved()
        for parameter in model.parameters():
            self._partition.keep(parameter)
        digests = _gathered(self._source.digests)
        return fingerprint(model.config, slots, self._source.dtype, digests)

    def _prepare(self, round_: list[Slot]) -> list[Tensor] | UserError:
        """The tensor of this rank, ready to send; runs in the reader's thread."""
        if self._readers.place >= len(round_):
            return []
        slot = round_[self._readers.place]
        try:
            with torch.no_grad():
                return self._ready(slot)
        except UserError as error:
            return error

    def _ready(self, slot: Slot) -> list[Tensor]:
        method = self._starter(slot)
        if method is None:
            tensor = packed_or_dense(slot, self._source, self._device)
            dtype = self._dtype if tensor.is_floating_point() else tensor.dtype
            mapped = slot.linear is None and self._device.type == "cpu" and not self._source.owned
            return [tensor.to(dtype, copy=mapped)]
        if slot.linear is not None:
            assert isinstance(method, LinearMethod)
            return [self._started(slot, slot.linear, method), *_state(method)]
        kept = method.start(finite(self._source, slot.key, self._device))
        kept = kept.to(self._dtype) if kept.is_floating_point() else kept
        return [kept, *_state(method)]

    def _started(self, slot: Slot, linear: PackedLinear, method: LinearMethod) -> Tensor:
        """The packed W of a method that wants to see it; codes that the source has are kept."""
        codec, shape = linear.base.codec, linear.base.shape
        if method.starts_from_dense:
            codes = self._after_start(slot, linear, method)
        else:
            codes = packed_or_dense(slot, self._source, self._device)
        method.measure(codec.decode(codes, shape, torch.float32))
        return codes

    def _after_start(self, slot: Slot, linear: PackedLinear, method: LinearMethod) -> Tensor:
        """The packed W that the method leaves, having seen it in fp32."""
        codec, codes = linear.base.codec, None
        if not (method.edits_base and self._source.exact):
            codes = self._source.packed(slot.key, codec)
        if codes is None or self._source.exact:
            weight = linear.turned(finite(self._source, slot.key, self._device)).float()
        else:
            weight = codec.decode(codes.to(self._device), linear.base.shape, torch.float32)
        kept = method.start(weight)
        if codes is None or method.edits_base:
            codes = codec.encode(kept)
        return codes.to(self._device, copy=True)

    def _starter(self, slot: Slot) -> Method | None:
        """The method that starts from this slot's weight."""
        return next((self._starts[place] for place in slot.places if place in self._starts), None)

    def _send(self, slot: Slot, owner: int, mine: list[Tensor] | UserError | None) -> None:
        """Give every rank the slot's tensors, install them, cut the weight."""
        module, attribute = slot.places[0]
        old = getattr(module, attribute)
        dtype = self._dtype if old.is_floating_point() else old.dtype
        if isinstance(mine, list):
            tensor, started = mine.pop(0), mine  # nobody else keeps what is about to be cut
        else:
            tensor, started = torch.empty(old.shape, dtype=dtype, device=self._device), None
        self._readers.send(tensor, owner)
        targets = _state(self._starter(slot))
        for target, value in zip(targets, started or targets, strict=True):
            self._readers.send(value, owner)
            target.copy_(value)
        _install(slot, tensor, old)
        installed = getattr(module, attribute)
        if isinstance(installed, nn.Parameter):
            self._partition.keep(installed)


def _raise_together(mine: list[Tensor] | UserError, device: torch.device) -> None:
    """Raise the first rank's error on every rank, so that none waits for it in vain."""
    error = mine if isinstance(mine, UserError) else None
    if dist.is_initialized() and dist.get_world_size() > 1:
        failed = torch.tensor([int(error is not None)], device=device)
        dist.all_reduce(failed)
        if failed.item():
            errors: list[UserError | None] = [None] * dist.get_world_size()
            dist.all_gather_object(errors, error)
            error = next(e for e in errors if e is not None)
    if error is not None:
        raise error


def _gathered(mine: Mapping[str, str]) -> dict[str, str]:
    """What all ranks know together."""
    if not dist.is_initialized():
        return dict(mine)
    everyone: list[Mapping[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: sha for one in everyone for name, sha in one.items()}


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
