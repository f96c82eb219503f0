"""Methods that do not sit on a linear: on what a linear gives, or on the model's input."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bigpeft.methods.base import Method
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat

ATTENTION_OUTPUTS = r".*(o_proj|out_proj|attn\.c_proj|(self_attn|attention)\.dense)"
FEED_FORWARD_OUTPUTS = r".*(down_proj|fc2|dense_4h_to_h|mlp\.c_proj)"
"""The linears that end a block's attention and its feed-forward part, in the families we know."""


class OutputMethod(Method):
    """Sits on what a linear gives, bias included; constructed as `cls(linear, options)`."""

    mergeable = False
    default_targets: ClassVar[str | Sequence[str]]

    @abstractmethod
    def forward(self, y: Tensor) -> Tensor:
        """y (..., out_features) → the same shape and dtype."""

    @classmethod
    @abstractmethod
    def count(cls, options: Any, seat: FrozenLinear) -> int:
        """Trainable numbers on this linear, by formula."""


@dataclass(frozen=True)
class ModelInput:
    """Sizes of a decoder, for methods that put something before the tokens."""

    name: str
    hidden_size: int
    layers: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    device: torch.device


class InputMethod(Method):
    """Sits on the model's input, once per model; constructed as `cls(seat, options)`."""

    mergeable = False
    tokens: tuple[int, ...] = ()
    """Token ids of `text`, which whoever has the tokenizer sets."""

    length: int
    """Virtual tokens before the real ones, which `__init__` sets."""

    @property
    def text(self) -> str | None:
        """Words whose token ids `start` needs, or None."""
        return None

    @classmethod
    @abstractmethod
    def count(cls, options: Any, seat: ModelInput) -> int:
        """Trainable numbers of the whole model, by formula."""


class PromptMethod(InputMethod):
    """Virtual tokens that are embeddings. `start` gets the embedding (vocabulary, hidden_size) in
    the dtype of its file.
    """

    @abstractmethod
    def forward(self) -> Tensor:
        """The embeddings (length, hidden_size)."""

    def virtual_tokens(self, kind: str, seat: PeftSeat) -> PeftForm:
        """HF peft's form of this kind, which puts its embeddings behind the model's own factor."""
        embeddings = self() * seat.embedding_scale
        config = {
            "num_virtual_tokens": self.length,
            "token_dim": embeddings.shape[1],
            "num_transformer_submodules": 1,
        }
        return PeftForm(kind, {"prompt_embeddings": embeddings}, config)


class PrefixMethod(InputMethod):
    """Virtual tokens that are keys and values of every layer."""

    @abstractmethod
    def forward(self) -> Tensor:
        """Keys and values (layers, 2, key_value_heads, length, head_dim)."""
