"""Prefix tuning, trained keys and values before those of the tokens (Li & Liang, arXiv 2101.00190).

    K = [K₀; K(tokens)], V = [V₀; V(tokens)]        K₀, V₀ (length, heads · head_dim) in every layer

Without `projection` it is P-tuning v2 (arXiv 2110.07602): the keys and values are the parameters.
With it they come from an embedding (length, heads · head_dim) through Linear, Tanh and Linear, as
the paper makes them. Heads are those of keys and values, fewer than the queries' in most models.

No start is the identity: virtual tokens take a share of every token's attention. `random` draws
keys and values from N(0, 0.02²), near zero, where they give nothing for it: from N(0, 1), as HF
peft does, the held-out loss of SmolLM2-135M-Instruct on movie reviews starts at 14.6 instead of 3.0
(2.7 without a prefix). With `projection` embedding and linears start as HF peft's. `zero` is exact,
but without `projection` virtual tokens that start alike have the same gradients and stay alike.

With AdamW at 0.01 ten steps of the same run take that loss from 3.0 to 0.45. With `projection` a
step of one weight moves every key or value, and the rate is a tenth: 0.001 takes it to 1.28.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bigpeft.errors import RecipeError
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.peft_form import PeftForm, PeftSeat
from bigpeft.methods.seats import ModelInput, PrefixMethod

_STD = 0.02


class PrefixTuning(PrefixMethod):
    """Trained keys and values in every layer."""

    class Options(MethodOptions):
        """How many, and where they come from."""

        length: PositiveInt = Field(20, description="virtual tokens")
        projection: bool = Field(False, description="make them by a small network")
        encoder_hidden_size: PositiveInt = Field(
            512, description="projection: numbers between its two linears"
        )
        init: Literal["random", "zero"] = Field(
            "random", description="keys and values at the start; with projection its last linear"
        )

    family = "reconstruction"
    source = "arXiv 2101.00190"
    moves = "what is attended to in every layer; no weight changes"
    learning_rate = 1e-2
    learning_rate_source = "short runs with AdamW on movie reviews"
    when = "as prompt_tuning, with more to say and no longer inputs"
    hf_peft = "PREFIX_TUNING, the keys and values"

    def __init__(self, seat: ModelInput, options: Options) -> None:
        super().__init__()
        _refuse_unused(options)
        self.options, self.length = options, options.length
        self.shape = (seat.layers, 2, seat.key_value_heads, options.length, seat.head_dim)
        width, device = seat.key_value_heads * seat.head_dim, seat.device
        if options.projection:
            hidden = options.encoder_hidden_size
            self.embedding = nn.Parameter(torch.empty(options.length, width, device=device))
            self.transform = nn.Sequential(
                nn.Linear(width, hidden, device=device),
                nn.Tanh(),
                nn.Linear(hidden, 2 * seat.layers * width, device=device),
            )
        else:
            self.prefix = nn.Parameter(torch.empty(self.shape, device=device))

    def reset(self) -> None:
        """Keys and values near zero; an embedding from N(0, 1), linears as torch starts them."""
        super().reset()
        zero = self.options.init == "zero"
        if not self.options.projection:
            nn.init.normal_(self.prefix, std=0.0 if zero else _STD)
            return
        nn.init.normal_(self.embedding)
        *first, last = [m for m in self.transform if isinstance(m, nn.Linear)]
        for module in first if zero else [*first, last]:
            module.reset_parameters()

    def forward(self) -> Tensor:
        """Keys and values (layers, 2, key_value_heads, length, head_dim)."""
        if not self.options.projection:
            return self.prefix
        layers, two, heads, length, head_dim = self.shape
        flat = self.transform(self.embedding)
        return flat.view(length, layers, two, heads, head_dim).permute(1, 2, 3, 0, 4)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """Prefix tuning; of a projection HF peft's files keep what it gives."""
        flat = self().permute(3, 0, 1, 2, 4).flatten(1)
        config = {
            "num_virtual_tokens": self.length,
            "num_layers": self.shape[0],
            "token_dim": self.shape[2] * self.shape[4],
            "num_attention_heads": self.shape[2],
            "num_transformer_submodules": 1,
            "prefix_projection": False,
        }
        return [PeftForm("PREFIX_TUNING", {"prompt_embeddings": flat}, config)]

    def remark(self) -> str | None:
        """Symmetry that no step breaks."""
        if self.options.init == "random" or self.options.projection or self.length == 1:
            return None
        return (
            f"the {self.length} virtual tokens start alike and stay so, like one; write "
            "method.init: random or method.projection: true"
        )

    def role(self, parameter: str) -> Role:
        """Only the matrices of a projection are decayed, and it learns at a tenth of the rate."""
        scale = 0.1 if self.options.projection else 1.0
        return Role(parameter, learning_rate_scale=scale, decay=".weight" in parameter)

    @classmethod
    def count(cls, options: MethodOptions, seat: ModelInput) -> int:
        """2 · layers · length · heads · head_dim, or the embedding and its projection."""
        assert isinstance(options, PrefixTuning.Options)
        width, hidden = seat.key_value_heads * seat.head_dim, options.encoder_hidden_size
        outputs = 2 * seat.layers * width
        if not options.projection:
            return options.length * outputs
        return options.length * width + (width + 1) * hidden + (hidden + 1) * outputs


def _refuse_unused(options: PrefixTuning.Options) -> None:
    """Raise RecipeError for an option without effect."""
    if not options.projection and options.changed(["encoder_hidden_size"]):
        raise RecipeError(
            "method.encoder_hidden_size",
            "has no effect without method.projection",
            "remove it, or write method.projection: true",
        )
