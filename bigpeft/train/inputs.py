"""Token data of a run: the training rows and the held-out ones, prepared once for all ranks."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from bigpeft.data import Prompt, Tokens
from bigpeft.plan import Plan
from bigpeft.train.evaluation import Task
from bigpeft.train.evaluation.read import read_samples, read_tasks
from bigpeft.train.folder import write_json
from bigpeft.train.rows import Preparation, Say, Windows

CARD = "data.json"


@dataclass(frozen=True)
class Inputs:
    """What the model will see, in training and when it is judged.

    `tokens` of all training rows, or None where they come out of the `stream`.
    """

    tokens: Tokens | None
    stream: Windows
    tokenizer: PreTrainedTokenizerBase
    tasks: tuple[Task, ...]
    samples: list[Prompt]

    @property
    def pad_id(self) -> int:
        """What fills rows; never told from a learned token by its value."""
        pad_id = self.tokenizer.pad_token_id
        return pad_id if isinstance(pad_id, int) else 0


def read_inputs(plan: Plan, folder: Path, say: Say) -> Inputs:
    """Tokenise on the first rank, wait outside any collective on the others, read on all.

    Raises DataError or FileError, the same on every rank.
    """
    rows = Preparation(plan, folder, say)
    inputs = Inputs(
        tokens=None
        if plan.recipe.data.streaming
        else rows.tokens("train", rows.of_training(), mixing=True),
        stream=rows.stream,
        tokenizer=rows.tokenizer,
        tasks=read_tasks(plan, rows),
        samples=read_samples(plan, rows),
    )
    if plan.world.is_first:
        write_json(folder / CARD, rows.cards)
    return inputs
