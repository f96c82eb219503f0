"""Token data of a run: the training rows and the held-out ones, prepared once for all ranks."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from bigpeft.data import Packed, Prompt, Tokens
from bigpeft.plan import Plan
from bigpeft.train.evaluation import Task
from bigpeft.train.evaluation.read import read_samples, read_tasks
from bigpeft.train.folder import write_json
from bigpeft.train.rows import Preparation, Say, Windows
from bigpeft.train.units import Units, side_by_side

CARD = "data.json"


@dataclass(frozen=True)
class Inputs:
    """What the model will see, in training and when it is judged.

    `tokens` of all training rows and the `units` that batches are made of, or None where they come
    out of the `stream`.
    """

    tokens: Tokens | None
    units: Units | None
    stream: Windows
    tokenizer: PreTrainedTokenizerBase
    tasks: tuple[Task, ...]
    samples: list[Prompt]

    @property
    def pad_id(self) -> int:
        """What fills rows; never told from a learned token by its value."""
        return _pad_id(self.tokenizer)


def read_inputs(plan: Plan, folder: Path, say: Say, bars: Console | None = None) -> Inputs:
    """Tokenise on the first rank, wait outside any collective on the others, read on all.

    Progress is drawn on `bars`, where there is one. Raises DataError or FileError, the same on
    every rank.
    """
    rows = Preparation(plan, folder, say, bars)
    tokens = units = None
    if not plan.recipe.data.streaming:
        tokens = rows.tokens("train", rows.of_training(), mixing=True)
        units = side_by_side(tokens, _pad_id(rows.tokenizer), plan)
    inputs = Inputs(
        tokens=tokens,
        units=units,
        stream=rows.stream,
        tokenizer=rows.tokenizer,
        tasks=read_tasks(plan, rows),
        samples=read_samples(plan, rows),
    )
    if plan.world.is_first:
        if isinstance(units, Packed):
            rows.cards["train"]["packing"] = {"packs": len(units), "fill": units.packs.fill}
        write_json(folder / CARD, rows.cards)
    return inputs


def _pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    pad_id = tokenizer.pad_token_id
    return pad_id if isinstance(pad_id, int) else 0
