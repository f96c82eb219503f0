"""What an adapter is called in HF peft: a type, a configuration, and the ends of tensor names.

A method knows its equivalents (`Method.peft_forms`); writing them is the business of others.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class NoPeftForm(Exception):
    """HF peft has nothing that computes the same; the message says why, as the rest of a sentence
    that starts with the method's name.
    """


@dataclass(frozen=True)
class PeftSeat:
    """What a method may ask about its seat, and about the seats of the whole model by name.

    `bias` says whether the layer adds one, `weight` reads its dense W (out_features, in_features)
    in fp32. `embedding_scale` is what the model multiplies its token embeddings with.
    """

    name: str
    seats: Mapping[str, Any]
    bias: bool = False
    weight: Callable[[], Tensor] | None = None
    embedding_scale: float = 1.0

    def dense(self) -> Tensor:
        """W, read from its file."""
        assert self.weight is not None
        return self.weight()


@dataclass(frozen=True)
class PeftForm:
    """One seat's adapter as HF peft has it.

    `kind` is peft's `peft_type`, `tensors` the end of each name → its numbers. `config` must be
    the same on all seats, `layer` may differ where peft has a pattern for it, and `training` has no
    part in outputs: where seats differ it falls away. `lists` are entries of the configuration that
    list the seats to which they apply, this one among them. `whole` makes tensors of the model that
    all seats share.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    layer: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    lists: tuple[str, ...] = ()
    whole: Callable[[], Mapping[str, Tensor]] = dict


def lora(a: Tensor, b: Tensor, scaling: float = 1.0, dropout: float = 0.0) -> PeftForm:
    """W + scaling · B A as LoRA; A (rank, in_features), B (out_features, rank)."""
    rank = len(a)
    return PeftForm(
        "LORA",
        {"lora_A.weight": a, "lora_B.weight": b},
        layer={"r": rank, "lora_alpha": numerator(scaling, rank)},
        training={"lora_dropout": dropout},
    )


def hira(a: Tensor, b: Tensor, dropout: float = 0.0) -> PeftForm:
    """W ⊙ (1 + B A) as HiRA; shapes as in `lora`. peft 0.21 passes over HiRA's rank pattern."""
    return PeftForm(
        "HIRA",
        {"hira_A": a, "hira_B": b},
        config={"r": len(a)},
        training={"hira_dropout": dropout},
    )


def numerator(quotient: float, divisor: float) -> float | int:
    """The alpha whose `alpha / divisor` is this quotient, as short as it can be written."""
    exact = quotient * divisor
    short = round(exact, 6)
    alpha = short if short / divisor == quotient else exact
    return int(alpha) if alpha == int(alpha) else alpha


def lora_scaling(form: PeftForm) -> float:
    """The factor that peft's LoRA puts before B A."""
    rank = form.layer["r"]
    return form.layer["lora_alpha"] / (math.sqrt(rank) if form.config.get("use_rslora") else rank)
