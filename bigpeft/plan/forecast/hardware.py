"""The machines that a plan is for: counts, memory, speeds and price, as given or as published."""

import re
from dataclasses import dataclass

from bigpeft.errors import RecipeError

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """One kind of GPU by its data sheet: bytes, dense 16-bit FLOP/s, bytes/s of its memory, and
    bytes/s that it sends to its neighbours in a node.
    """

    memory: int
    flops: float
    memory_speed: float
    link_speed: float


CARDS = {
    "rtx3090": Card(24 * GIB, 71e12, 936e9, 16e9),
    "rtx4090": Card(24 * GIB, 165e12, 1008e9, 16e9),
    "l40s": Card(48 * GIB, 362e12, 864e9, 16e9),
    "a100-40": Card(40 * GIB, 312e12, 1555e9, 300e9),
    "a100-80": Card(80 * GIB, 312e12, 2039e9, 300e9),
    "h100": Card(80 * GIB, 989e12, 3350e9, 450e9),
    "h200": Card(141 * 10**9, 989e12, 4800e9, 450e9),
    "b200": Card(180 * 10**9, 2250e12, 7700e9, 900e9),
}


@dataclass(frozen=True)
class Hardware:
    """`network_speed` is in bytes/s into and out of a node; `price` in money per GPU and hour."""

    nodes: int
    gpus_per_node: int
    card: Card
    network_speed: float
    price: float | None = None

    @property
    def ranks(self) -> int:
        """One per GPU."""
        return self.nodes * self.gpus_per_node


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def read_bytes(key: str, text: str) -> int:
    """`80GiB`, `24 GB` or `80G` → bytes. Raises RecipeError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?\s*", text.lower())
    factor = (_UNITS | _BINARY).get(found[2]) if found else None
    if not found or not factor or float(found[1]) <= 0:
        raise RecipeError(key, f"{text!r} is no size", "write a size such as 80GiB or 24GB")
    return int(float(found[1]) * factor)


def read_speed(key: str, text: str) -> float:
    """`400Gbit/s`, `50GB/s` → bytes/s; a unit in small b or with `bit` counts bits.

    Raises RecipeError for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt])(bit|b|B)(?:/s|ps)\s*", text, re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise RecipeError(key, f"{text!r} is no bandwidth", "write one such as 400Gbit/s or 50GB/s")
    bits = found[3].lower() == "bit" or found[3] == "b"
    return float(found[1]) * _UNITS[found[2].lower()] / (8 if bits else 1)
