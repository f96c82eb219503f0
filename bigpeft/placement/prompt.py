"""Embeddings before those of the tokens."""

from typing import Any

import torch
from torch import Tensor, nn

from bigpeft.methods import PromptMethod

Kwargs = dict[str, Any]


class Prompt:
    """Hands the decoder embeddings instead of tokens, the prompt's first.

    Some embeddings multiply the numbers of their file (Gemma's by √hidden_size); the prompt is
    multiplied likewise, so that in every model its numbers are of the size of the file's.
    """

    def __init__(self, embedding: nn.Module, method: PromptMethod) -> None:
        self._embedding, self._method = embedding, method

    def before(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[tuple[Any, ...], Kwargs]:
        """Put the prompt before the embeddings, and ones before the mask.

        Positions are left to the decoder, which counts the virtual tokens like all others.
        """
        names = ("input_ids",)[: len(args)]
        given = {**kwargs, **dict(zip(names, args, strict=True))}
        ids, embeds = given.pop("input_ids", None), given.pop("inputs_embeds", None)
        tokens = self._embedding(ids) if embeds is None else embeds
        prompt = self._method().to(tokens.dtype) * embedding_scale(self._embedding, tokens.dtype)
        prompt = prompt.expand(len(tokens), -1, -1)
        mask = given.get("attention_mask")
        if mask is not None:
            given["attention_mask"] = torch.cat([mask.new_ones(prompt.shape[:2]), mask], dim=1)
        given.pop("position_ids", None)
        return (), {**given, "inputs_embeds": torch.cat([prompt, tokens], dim=1)}

    def after(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Take the prompt's positions off again."""
        output.last_hidden_state = output.last_hidden_state[:, self._method.length :]
        return output


def embedding_scale(embedding: nn.Module, dtype: torch.dtype) -> Tensor | float:
    """What this embedding multiplies the numbers of its file with."""
    scale = getattr(embedding, "embed_scale", 1.0)
    return scale.to(dtype) if isinstance(scale, Tensor) else scale
