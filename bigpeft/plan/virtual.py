"""What virtual tokens need beside the skeleton: the tokens of a text, and room for positions."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from bigpeft.data import load_tokenizer
from bigpeft.errors import RecipeError
from bigpeft.methods import InputMethod, Method
from bigpeft.placement import position_limit
from bigpeft.recipe import Recipe


def prepare_input(
    seated: Iterable[Method], recipe: Recipe, folder: Path | None, model: PreTrainedModel
) -> None:
    """Give the method on the input, where there is one, what it needs.

    Raises RecipeError for rows that do not fit the model with virtual tokens before them, or a text
    without tokens; FileError without a tokenizer.
    """
    for method in seated:
        if isinstance(method, InputMethod):
            _refuse_long_rows(method.length, recipe.data.max_length, position_limit(model))
            if method.text is not None:
                embedding: Any = model.get_input_embeddings()
                method.tokens = _tokens(method.text, recipe, folder, len(embedding.weight))


def _refuse_long_rows(virtual: int, real: int, limit: int | None) -> None:
    if limit is None or virtual + real <= limit:
        return
    room = limit - virtual
    raise RecipeError(
        "method.length",
        f"{virtual} virtual tokens before data.max_length {real} are more than the {limit} "
        "positions of this model",
        f"write data.max_length: {room} or less" if room > 0 else f"write less than {limit}",
    )


def _tokens(text: str, recipe: Recipe, folder: Path | None, vocabulary: int) -> tuple[int, ...]:
    model = recipe.model
    name = model.tokenizer or (str(folder) if folder else None)
    if name is None:
        raise RecipeError(
            "model.tokenizer", "is missing, method.text needs one", "name a folder or hub model"
        )
    tokenizer = load_tokenizer(name, model.revision, model.trust_remote_code)
    tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not tokens or max(tokens) >= vocabulary:
        raise RecipeError(
            "method.text",
            f"{text!r} has no tokens that the model's embedding holds",
            "write other words, or the model.tokenizer that belongs to the model",
        )
    return tokens
