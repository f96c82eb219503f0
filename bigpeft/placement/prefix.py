"""Keys and values before those of the tokens, in every layer."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from bigpeft.errors import RecipeError
from bigpeft.methods import ModelInput, PrefixMethod

_CACHES = ("past_key_values", "layer_past")
_BIASES = ("alibi", "position_bias")
Kwargs = dict[str, Any]


class Prefix:
    """Hands each layer its part of the prefix, in the place of a cache.

    It enters at the attention itself: blocks under activation checkpointing accept no cache. The
    mask of the tokens gets columns that all of them see, whatever window a layer has, and tokens
    are counted from `length` on, as after a real cache of that length.
    """

    def __init__(self, method: PrefixMethod, config: PretrainedConfig) -> None:
        self._method, self._config = method, config
        self._drawn: Tensor | None = None

    def before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs]:
        """Make keys and values for one pass; recomputation in backward uses the same."""
        self._drawn = self._method()
        ids = args[0] if args else kwargs.get("input_ids")
        tokens = kwargs["inputs_embeds"] if ids is None else ids
        positions = torch.arange(tokens.shape[1], device=tokens.device) + self._method.length
        return args, {**kwargs, "position_ids": positions[None]}

    def before_attention(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs]:
        """Give the layer's attention its keys and values, and a mask that shows them."""
        assert self._drawn is not None
        hidden = args[0] if args else kwargs["hidden_states"]
        keys, values = self._drawn[attention.layer_idx]  # type: ignore[index]
        name = next(key for key in _CACHES if key in kwargs)
        mask = kwargs.get("attention_mask")
        if mask is not None or "flash" not in str(self._config._attn_implementation):
            mask = _seeing(mask, self._method.length, hidden)
        return args, {**kwargs, name: _Before(keys, values), "attention_mask": mask}


class _Before:
    """What an attention takes for the cache of earlier tokens."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, heads, tokens, head_dim) → with the prefix before them."""
        return _joined(self._keys, keys), _joined(self._values, values)

    def get_seq_length(self, *_: Any) -> int:
        """Length of the prefix."""
        return self._keys.shape[-2]


def attentions(model: PreTrainedModel, seat: ModelInput) -> list[nn.Module]:
    """The attention of every layer. Raises RecipeError where a prefix cannot enter them.

    Each must keep keys and values of the seat's sizes in a cache, and know where tokens stand from
    their positions alone, not from biases that are made for the tokens that the decoder sees.
    """
    decoder = model.get_decoder()
    found = [
        module
        for module in decoder.modules()
        if type(module).__name__.endswith("Attention") and hasattr(module, "layer_idx")
    ]
    count = f"{len(found)} of {seat.layers} layers"
    _refuse_unless(len(found) == seat.layers, model, f"has attention that can be told in {count}")
    taken = inspect.signature(decoder.forward).parameters
    _refuse_unless("position_ids" in taken, model, "takes no positions")
    for module in found:
        names = set(inspect.signature(module.forward).parameters)
        sizes = {getattr(module, f"{kind}head_dim", seat.head_dim) for kind in ("", "qk_", "v_")}
        shared = getattr(module, "is_kv_shared_layer", False)
        _refuse_unless(bool(names & {*_CACHES}), model, "has attention without a cache")
        _refuse_unless(not names & {*_BIASES}, model, "has biases for positions in its attention")
        _refuse_unless(sizes == {seat.head_dim} and not shared, model, "has layers of other sizes")
    return found


def _refuse_unless(fine: bool, model: PreTrainedModel, why: str) -> None:
    if not fine:
        raise RecipeError(
            "method.name",
            f"prefix_tuning has no way into {model.config.model_type}, which {why}",
            "choose prompt_tuning, or a method that sits on linears",
        )


def _joined(before: Tensor, own: Tensor) -> Tensor:
    return torch.cat([before.to(own.dtype).expand(len(own), -1, -1, -1), own], dim=-2)


def _seeing(mask: Tensor | None, length: int, hidden: Tensor) -> Tensor:
    """The mask with `length` visible columns before its own; none means a causal one.

    Masks of padding are (batch, tokens) of ones; others (batch, 1, queries, tokens), true or zero
    where attention falls.
    """
    if mask is None:
        tokens = hidden.shape[1]
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=hidden.device).tril()[None, None]
    shape = (*mask.shape[:-1], length)
    visible = mask.new_zeros(shape) if mask.is_floating_point() else mask.new_ones(shape)
    return torch.cat([visible, mask], dim=-1)
