"""Which base model this is: its configuration, and name, dtype, shape and hash of every tensor.

A packed copy carries the fingerprint of the dense weights that it was made from, so an adapter
trained over one belongs to the other too.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from bigpeft.backbone.slots import Slot
from bigpeft.errors import UserError

_PASSING = ("transformers_version", "dtype", "torch_dtype", "use_cache", "quantization_config")
_ANOTHER = "use the base that it belongs to"


@dataclass(frozen=True)
class Fingerprint:
    """`tensors`: name → (dtype, shape, hash of the numbers)."""

    config: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...], str]]

    @property
    def short(self) -> str:
        """16 hexadecimal digits, for people."""
        text = json.dumps(self.as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """For files; `from_json` is the inverse."""
        tensors = {name: [kind, list(shape), sha] for name, (kind, shape, sha) in self._items()}
        return {"config": self.config, "tensors": tensors}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Fingerprint":
        """Raises KeyError, TypeError or ValueError for what is no fingerprint."""
        tensors = {
            name: (str(kind), tuple(shape), str(sha))
            for name, (kind, shape, sha) in content["tensors"].items()
        }
        return cls(dict(content["config"]), tensors)

    def difference(self, other: "Fingerprint") -> str | None:
        """The first thing that differs, in words; None where nothing does."""
        for key in sorted(self.config.keys() | other.config.keys()):
            mine, its = self.config.get(key), other.config.get(key)
            if mine != its:
                return f"config.json says {key} = {mine!r} there, {its!r} here"
        for name in sorted(self.tensors.keys() | other.tensors.keys()):
            if name not in other.tensors or name not in self.tensors:
                return f"{name} is only {'there' if name in self.tensors else 'here'}"
            mine, its = self.tensors[name], other.tensors[name]
            if mine[:2] != its[:2]:
                return f"{name} is {mine[0]} {mine[1]} there, {its[0]} {its[1]} here"
            if mine[2] != its[2]:
                return f"the numbers of {name} differ"
        return None

    def refuse_another(self, what: str, now: "Fingerprint", error: type[UserError]) -> None:
        """Raise `error` where `what`, which this fingerprint was stored with, has another base."""
        reason = self.difference(now)
        if reason is not None:
            raise error(
                what,
                f"belongs to base {self.short}, this one is {now.short}: {reason}",
                _ANOTHER,
            )

    def _items(self) -> list[tuple[str, tuple[str, tuple[int, ...], str]]]:
        return sorted(self.tensors.items())


def fingerprint(
    config: PretrainedConfig,
    slots: Iterable[Slot],
    dtype_of: Callable[[str], torch.dtype],
    digests: Mapping[str, str],
) -> Fingerprint:
    """Of the model that fills these slots. `digests` has the hash of each slot's tensor."""
    tensors = {
        slot.key: (str(dtype_of(slot.key)).removeprefix("torch."), slot.shape, digests[slot.key])
        for slot in slots
    }
    return Fingerprint(lasting(config), tensors)


def lasting(config: PretrainedConfig) -> dict[str, Any]:
    """What of a configuration says which model it is."""
    values = json.loads(config.to_json_string(use_diff=True))
    return {key: v for key, v in values.items() if key not in _PASSING and not key.startswith("_")}
