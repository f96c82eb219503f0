"""Where a method meets the model: on a linear, on what a linear gives, on the decoder's input."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from bigpeft.errors import RecipeError
from bigpeft.methods import (
    FrozenLinear,
    InputMethod,
    LinearMethod,
    ModelInput,
    OutputMethod,
    PrefixMethod,
    PromptMethod,
)
from bigpeft.placement.prefix import Prefix

ADAPTER = "adapter"
INPUT = "input"


class Adapted(nn.Module):
    """A frozen linear and the method that sits on it: y = adapter(linear, x) + bias."""

    def __init__(self, linear: FrozenLinear, adapter: LinearMethod) -> None:
        super().__init__()
        self.linear = linear
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype."""
        y = self.adapter(self.linear, x)
        bias = getattr(self.linear, "bias", None)
        return y if bias is None else y + bias.to(y.dtype)


class AdaptedOutput(nn.Module):
    """A frozen linear and the method that sits behind it: y = adapter(linear(x))."""

    def __init__(self, linear: nn.Module, adapter: OutputMethod) -> None:
        super().__init__()
        self.linear = linear
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype."""
        return self.adapter(self.linear(x))


def input_of(model: PreTrainedModel) -> ModelInput:
    """The sizes of the model's decoder."""
    config = model.config.get_text_config()
    embedding: Any = model.get_input_embeddings()
    vocabulary, width = embedding.weight.shape
    heads = config.num_attention_heads
    return ModelInput(
        name=INPUT,
        hidden_size=int(width),
        layers=config.num_hidden_layers,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=int(vocabulary),
        device=model.device,
    )


def seat_on_input(model: PreTrainedModel, method: InputMethod) -> None:
    """Let the decoder begin with the method's virtual tokens.

    What it returns belongs to the real tokens alone, so nobody else has to know of the others.
    """
    decoder = model.get_decoder()
    decoder.add_module(ADAPTER, method)
    if isinstance(method, PromptMethod):
        prompt = _Prompt(model.get_input_embeddings(), method)
        decoder.register_forward_pre_hook(prompt.before, with_kwargs=True)
        decoder.register_forward_hook(prompt.after)
    elif isinstance(method, PrefixMethod):
        prefix = Prefix(method)
        decoder.register_forward_pre_hook(prefix.before, with_kwargs=True)
        for layer in _attentions(model):
            layer.register_forward_pre_hook(prefix.before_attention, with_kwargs=True)


class _Prompt:
    """Embeddings before those of the tokens."""

    def __init__(self, embedding: nn.Module, method: PromptMethod) -> None:
        self._embedding, self._method = embedding, method

    def before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put the prompt before the embeddings, and ones before the mask."""
        names = ("input_ids",)[: len(args)]
        given = {**kwargs, **dict(zip(names, args, strict=True))}
        ids, embeds = given.pop("input_ids", None), given.pop("inputs_embeds", None)
        tokens = self._embedding(ids) if embeds is None else embeds
        prompt = self._method().to(tokens.dtype).expand(len(tokens), -1, -1)
        mask = given.get("attention_mask")
        if mask is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(prompt.shape[:2]), mask], dim=1)
        given["position_ids"] = None
        return (), {**given, "inputs_embeds": torch.cat([prompt, tokens], dim=1)}

    def after(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Take the prompt's positions off again."""
        output.last_hidden_state = output.last_hidden_state[:, self._method.length :]
        return output


def _attentions(model: PreTrainedModel) -> list[nn.Module]:
    """The attention of every layer. Raises RecipeError where they cannot be told."""
    found = [
        m
        for m in model.get_decoder().modules()
        if type(m).__name__.endswith("Attention") and hasattr(m, "layer_idx")
    ]
    if len(found) != model.config.get_text_config().num_hidden_layers:
        raise RecipeError(
            "method.name",
            f"prefix_tuning finds {len(found)} attention modules in {model.config.model_type}, "
            "not one in each layer",
            "choose prompt_tuning or a method that sits on linears",
        )
    return found
