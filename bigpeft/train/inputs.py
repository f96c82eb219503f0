"""Token data of a run: the training rows and the held-out ones, prepared once for all ranks."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bigpeft.data import (
    Reader,
    Tokens,
    card_of,
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
from bigpeft.train.folder import write_json

CARD = "data.json"


@dataclass(frozen=True)
class Inputs:
    """What the model will see."""

    tokens: Tokens
    held_out: HeldOut | None
    pad_id: int


def read_inputs(plan: Plan, folder: Path) -> Inputs:
    """Tokenise on the first rank, wait outside any collective on the others, read on all.

    Raises DataError or FileError, the same on every rank.
    """
    recipe = plan.recipe
    tokenizer = tokenizer_of(plan)
    pad_id = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else 0
    reader = _reader(plan, tokenizer, recipe.data.path, recipe.data.limit)
    tokens = _prepared(plan, folder / "data", "train", reader)
    cards = {"train": (reader, tokens)}
    held_out = None
    if recipe.eval is not None:
        reader = _reader(plan, tokenizer, recipe.eval.path, recipe.eval.limit)
        held = _prepared(plan, folder / "data", "eval", reader)
        cards["eval"] = (reader, held)
        wanted = recipe.eval.choices
        choices = choice_rows(reader, held, wanted) if wanted else None
        held_out = HeldOut(held, choices, recipe.eval.micro_size, pad_id)
    if plan.world.is_first:
        card = {name: card_of(read.source.sources, kept) for name, (read, kept) in cards.items()}
        write_json(folder / CARD, card)
    return Inputs(tokens, held_out, pad_id)


def tokenizer_of(plan: Plan) -> PreTrainedTokenizerBase:
    """The one that the recipe names, or the model's own. Raises FileError."""
    model = plan.recipe.model
    name = model.tokenizer or str(plan.folder)
    return load_tokenizer(name, model.revision, model.trust_remote_code)


def _reader(
    plan: Plan,
    tokenizer: PreTrainedTokenizerBase,
    path: str | tuple[str, ...],
    limit: int | None,
) -> Reader:
    data = plan.recipe.data
    return Reader(
        load_rows((path,) if isinstance(path, str) else path, limit),
        tokenizer,
        data.format,
        data.columns,
        data.template,
        data.loss_on,
    )


def _prepared(plan: Plan, folder: Path, name: str, reader: Reader) -> Tokens:
    data = plan.recipe.data

    def build() -> Tokens:
        return tokenise(reader, data.max_length, data.long_rows)

    fingerprint = fingerprint_of(
        tuple(map(str, reader.source.sources)),
        reader.tokenizer,
        limit=reader.source.limit,
        **data.model_dump(exclude={"path", "limit", "shuffle"}),
    )
    tokens = prepare(folder, plan.world.is_first, build, fingerprint, name, plan.world.launch)
    check_vocabulary(tokens, plan.model.config.get_text_config().vocab_size)
    return tokens
