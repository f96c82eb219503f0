"""Token data of a run: the training rows and the held-out ones, prepared once for all ranks."""

import os
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bigpeft.data import (
    Choices,
    Tokens,
    check_vocabulary,
    choice_rows,
    fingerprint_of,
    load_rows,
    load_tokenizer,
    prepare,
    tokenise,
)
from bigpeft.plan import Plan
from bigpeft.train.evaluate import HeldOut


@dataclass(frozen=True)
class Inputs:
    """What the model will see."""

    tokenizer: PreTrainedTokenizerBase
    tokens: Tokens
    held_out: HeldOut | None
    pad_id: int


def read_inputs(plan: Plan, folder: Path) -> Inputs:
    """Tokenise on the first rank, wait outside any collective on the others, read on all.

    Raises DataError or FileError, the same on every rank.
    """
    recipe = plan.recipe
    name = recipe.model.tokenizer or str(plan.folder)
    tokenizer = load_tokenizer(name, recipe.model.revision, recipe.model.trust_remote_code)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    tokens = _prepared(plan, folder, tokenizer, "train", recipe.data.path, recipe.data.limit)
    held_out = None
    if recipe.eval is not None:
        held = _prepared(plan, folder, tokenizer, "eval", recipe.eval.path, recipe.eval.limit)
        held_out = HeldOut(held, _choices(plan, tokenizer, held), recipe.eval.micro_size, pad_id)
    return Inputs(tokenizer, tokens, held_out, pad_id)


def _prepared(
    plan: Plan,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    path: str | tuple[str, ...],
    limit: int | None,
) -> Tokens:
    data = plan.recipe.data
    paths = (path,) if isinstance(path, str) else path

    def build() -> Tokens:
        tokens = tokenise(
            load_rows(paths, limit),
            format_name=data.format,
            columns=data.columns,
            tokenizer=tokenizer,
            template=data.template,
            loss_on=data.loss_on,
            max_length=data.max_length,
            long_rows=data.long_rows,
            source_name=", ".join(paths),
        )
        check_vocabulary(tokens, plan.model.get_input_embeddings().weight.shape[0])
        return tokens

    options = data.model_dump(exclude={"path", "limit", "shuffle"})
    fingerprint = fingerprint_of(paths, tokenizer=tokenizer, limit=limit, **options)
    return prepare(folder / "data", plan.world.is_first, build, fingerprint, name, _attempt())


def _attempt() -> str:
    """The same on all ranks of one launch and another on the next."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "") + str(os.getppid())


def _choices(
    plan: Plan, tokenizer: PreTrainedTokenizerBase, tokens: Tokens
) -> Choices | None:
    held = plan.recipe.eval
    if held is None or not held.choices:
        return None
    paths = (held.path,) if isinstance(held.path, str) else held.path
    return choice_rows(
        load_rows(paths, held.limit),
        tokens,
        choices=held.choices,
        format_name=plan.recipe.data.format,
        columns=plan.recipe.data.columns,
        tokenizer=tokenizer,
        template=plan.recipe.data.template,
        source_name=", ".join(paths),
    )
