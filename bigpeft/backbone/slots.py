"""Which tensor of the source fills which place of the skeleton."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)

from bigpeft.backbone.linear import PackedLinear
from bigpeft.errors import WeightError


@dataclass(frozen=True)
class Slot:
    """A tensor of the source and where it goes.

    `names` are what the model calls it, `key` what the source does. `places` are all (module,
    attribute) pairs that share it: tied weights have two. `linear` is set where the tensor is W of
    a packed linear; then the place holds its bytes, and `shape` is that of W as files keep it.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    places: tuple[tuple[nn.Module, str], ...]
    linear: PackedLinear | None = None
    key: str = ""

    @property
    def numel(self) -> int:
        """Numbers in the source's tensor."""
        return math.prod(self.shape)


def fill_slots(model: PreTrainedModel, shapes: dict[str, tuple[int, ...]]) -> list[Slot]:
    """Every place of the model that a file fills, largest tensor first.

    Raises WeightError for a tensor that is missing or whose shape the configuration contradicts.
    """
    empty = list(empty_slots(model))
    keys = _keys(model, empty, shapes)
    slots = [replace(slot, key=_find(slot, keys, shapes)) for slot in empty]
    return sorted(slots, key=lambda slot: (-slot.numel, slot.key))


def aliases(
    model: PreTrainedModel, slots: Sequence[Slot], shapes: dict[str, tuple[int, ...]]
) -> set[str]:
    """Keys of the source that name a tied tensor once more, beside the one that fills its slot."""
    used = {slot.key for slot in slots}
    named = {name for slot in slots for name in slot.names}
    return {key for name, key in _keys(model, slots, shapes).items() if name in named} - used


def empty_slots(model: PreTrainedModel) -> Iterator[Slot]:
    """Everything of the model that has to be filled, adapters apart."""
    packed: set[int] = set()
    for module in model.modules():
        if isinstance(module, PackedLinear):
            packed |= {id(module), id(module.base)}
            rows, columns = module.base.shape
            shape = (columns, rows) if module.transposed else (rows, columns)
            yield Slot((f"{module.name}.weight",), shape, ((module.base, "packed"),), module)
            if module.bias is not None:
                shape = tuple(module.bias.shape)
                yield Slot((f"{module.name}.bias",), shape, ((module, "bias"),))
    yield from _dense(model, packed)


def _dense(model: nn.Module, packed: set[int]) -> Iterator[Slot]:
    """Dense parameters and persistent buffers of the model itself, one slot for all that share."""
    slots: dict[int, Slot] = {}
    for module_name, module in model.named_modules():
        if id(module) in packed or "adapter" in module_name.split("."):
            continue
        for attribute, tensor in _stored(module).items():
            name, place = f"{module_name}.{attribute}", (module, attribute)
            known = slots.get(id(tensor), Slot((), tuple(tensor.shape), ()))
            slots[id(tensor)] = replace(
                known, names=(*known.names, name), places=(*known.places, place)
            )
    yield from slots.values()


def _stored(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's own tensors that files keep."""
    tensors = {**module._parameters, **module._buffers}
    passing = module._non_persistent_buffers_set
    return {key: t for key, t in tensors.items() if t is not None and key not in passing}


def _keys(
    model: PreTrainedModel, slots: Sequence[Slot], shapes: dict[str, tuple[int, ...]]
) -> dict[str, str]:
    """The model's name of every tensor of the source → its key there.

    transformers knows which names older files use, and which lack the base model's prefix.
    """
    names = {name: None for slot in slots for name in slot.names}
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    keys: dict[str, str] = {}
    for key in shapes:
        renamed, _ = rename_source_key(key, renamings, converters, model.base_model_prefix, names)
        keys.setdefault(renamed, key)
    return keys


def _find(slot: Slot, keys: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> str:
    """The key under which the source has the slot's tensor."""
    key = next((keys[name] for name in slot.names if name in keys), None)
    if key is None:
        raise WeightError(
            slot.names[0],
            "is in no weight file",
            "download the model again, or use the config.json that belongs to these weights",
        )
    turned = slot.linear is not None and slot.linear.transposed
    if turned and shapes[key] == slot.shape[::-1] != slot.shape:
        raise WeightError(
            key,
            f"is kept as {shapes[key]}, as bitsandbytes keeps a Conv1D, not as {slot.shape}",
            "use the dense model",
        )
    if shapes[key] != slot.shape:
        raise WeightError(
            key,
            f"has shape {shapes[key]} in the files, {slot.shape} by config.json",
            "use the config.json that belongs to these weights",
        )
    return key
