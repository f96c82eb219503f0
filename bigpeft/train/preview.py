"""What the model will see, before it sees it: rows as tokens, and the figures that follow."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bigpeft.data import Packed, Place, Tokens
from bigpeft.plan import outline
from bigpeft.recipe import Recipe
from bigpeft.train.batches import Batches
from bigpeft.train.inputs import read_inputs
from bigpeft.train.progress import total_steps
from bigpeft.train.rows import Say
from bigpeft.train.saving import Position
from bigpeft.train.units import Units, side_by_side
from bigpeft.world import World

_MOST_STEPS = 200  # whose padding is measured


@dataclass(frozen=True)
class Piece:
    """Tokens of a row beside each other that are all learned or all masked, as text."""

    text: str
    learned: bool
    special: bool


@dataclass(frozen=True)
class Preview:
    """What `tokens` become; `filled` is the share of places in batches that hold a token; `epochs`
    and `steps` are those of the whole run, on one rank.
    """

    rows: tuple[tuple[Piece, ...], ...]
    tokens: Tokens
    units: Units
    filled: float
    global_size: int
    steps: int

    @property
    def lengths(self) -> Tensor:
        """Int64 (rows,) in tokens."""
        return self.tokens.offsets.diff()

    @property
    def learned(self) -> int:
        """Target tokens of one epoch."""
        return int(self.tokens.targets.sum())

    @property
    def epochs(self) -> float:
        """Passes over the rows in the whole run."""
        return self.steps * self.global_size / len(self.units)

    def histogram(self) -> list[tuple[int, int, int]]:
        """(shortest, longest, rows) of up to twelve classes of equal width."""
        low, high = int(self.lengths.min()), int(self.lengths.max())
        width = -(-(high - low + 1) // 12)
        classes = (self.lengths - low) // width
        counts = torch.bincount(classes, minlength=1).tolist()
        return [
            (low + n * width, min(high, low + (n + 1) * width - 1), count)
            for n, count in enumerate(counts)
        ]


def preview(recipe: Recipe, rows: int, say: Say = print, bars: Console | None = None) -> Preview:
    """The first `rows` rows and the figures of all, of streamed ones those of the first window.

    Tokenises into the run folder, where the run will find it. Raises UserError as the run would.
    """
    together = recipe.sharding.model_copy(update={"group": "world"})
    plan = outline(recipe.model_copy(update={"sharding": together}), World())
    inputs = read_inputs(plan, Path(recipe.run.folder), say, bars)
    tokenizer, tokens, units = inputs.tokenizer, inputs.tokens, inputs.units
    if tokens is None or units is None:
        tokens = next(inputs.stream(Place())).tokens
        units = side_by_side(tokens, inputs.pad_id, plan)
    shown = (tokens.row(index) for index in range(min(rows, len(tokens))))
    return Preview(
        rows=tuple(tuple(pieces(ids, targets, tokenizer)) for ids, targets in shown),
        tokens=tokens,
        units=units,
        filled=_filled(units, Batches(units, plan, Position()), recipe.batch.global_size),
        global_size=recipe.batch.global_size,
        steps=total_steps(recipe, len(units), Position()),
    )


def pieces(ids: Tensor, targets: Tensor, tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    """Text of ids (n,) and targets (n,), cut where what is learned or special begins or ends."""
    special = set(tokenizer.all_special_ids)
    kinds = [(bool(t), i in special) for i, t in zip(ids.tolist(), targets.tolist(), strict=True)]
    done, before = 0, ""
    for (learned, is_special), run in groupby(kinds):
        done += len(list(run))
        text = tokenizer.decode(ids[:done].tolist(), clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        yield Piece(text.removeprefix(before), learned, is_special)
        before = text


def _filled(units: Units, batches: Batches, size: int) -> float:
    """Over the first epoch, or the first of its steps."""
    if isinstance(units, Packed):
        return units.packs.fill
    steps = range(min(_MOST_STEPS, max(1, len(units) // size)))
    masks = [micro["attention_mask"] for step in steps for micro in batches[step]]
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
