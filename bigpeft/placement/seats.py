"""Where a method meets the model: on a linear, on what a linear gives, on the decoder's input."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from bigpeft.methods import (
    FrozenLinear,
    InputMethod,
    LinearMethod,
    ModelInput,
    OutputMethod,
    PrefixMethod,
    PromptMethod,
)
from bigpeft.placement.prefix import Prefix, attentions
from bigpeft.placement.prompt import Prompt

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
    decoder.register_forward_pre_hook(_refuse_cache, with_kwargs=True)
    if isinstance(method, PromptMethod):
        prompt = Prompt(model.get_input_embeddings(), method)
        decoder.register_forward_pre_hook(prompt.before, with_kwargs=True)
        decoder.register_forward_hook(prompt.after)
    elif isinstance(method, PrefixMethod):
        prefix = Prefix(method, decoder.config)
        layers = attentions(model, input_of(model))
        decoder.register_forward_pre_hook(prefix.before, with_kwargs=True)
        for layer in layers:
            layer.register_forward_pre_hook(prefix.before_attention, with_kwargs=True)


def position_limit(model: PreTrainedModel) -> int | None:
    """Positions that the decoder has embeddings for, virtual ones included; None if it has none."""
    tokens = model.get_input_embeddings()
    tables = [
        module.num_embeddings - getattr(module, "offset", 0)
        for module in model.get_decoder().modules()
        if isinstance(module, nn.Embedding) and module is not tokens
    ]
    known = model.config.get_text_config().max_position_embeddings if tables else None
    return known if known in tables else None


def _refuse_cache(_: nn.Module, __: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("use_cache") or kwargs.get("past_key_values") is not None:
        raise NotImplementedError("virtual tokens come before a whole row: pass use_cache=False")
