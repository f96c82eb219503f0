"""bigpeft eval --harness: tasks of lm-evaluation-harness instead of the eval section."""

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from bigpeft.errors import RecipeError
from bigpeft.world import World

if TYPE_CHECKING:
    from bigpeft.recipe import Recipe
    from bigpeft.train.harness import Score
    from bigpeft.train.terminal import Terminal

_Scores = Mapping[str, Mapping[str, "Score"]]
_MICRO_SIZE = 8
_USUAL_LIMIT = 2048  # tokens, of a model that does not say what it takes


@dataclass(frozen=True)
class Asked:
    """What the command line says of the harness."""

    names: tuple[str, ...]
    folder: Path | None
    shots: int | None
    limit: int | None
    max_length: int | None
    chat: bool

    def check(self, beside_task: bool) -> None:
        """Raises RecipeError for what does not go together, or where the harness is missing."""
        given = {
            "--harness-tasks": self.folder is not None,
            "--shots": self.shots is not None,
            "--limit": self.limit is not None,
            "--max-length": self.max_length is not None,
            "--chat": self.chat,
        }
        if not self.names:
            alone = next((option for option, is_given in given.items() if is_given), None)
            if alone is not None:
                raise RecipeError(alone, "means nothing without --harness", "add --harness TASK")
            return
        if beside_task:
            raise RecipeError(
                "--task", "is of the eval section, and --harness is not", "keep one of them"
            )
        if importlib.util.find_spec("lm_eval") is None:
            raise RecipeError(
                "--harness",
                "needs lm-evaluation-harness, which is not installed",
                "pip install 'bigpeft[harness]'",
            )


def answer(
    asked: Asked, recipe: "Recipe", place: Path, world: World, say: Callable[[str], None]
) -> _Scores:
    """Ask the run or model at `place`; the same on all ranks. Raises UserError."""
    from bigpeft.train.evaluation.read import plain_reader, stop_tokens
    from bigpeft.train.harness import Answering, ask, read_harness
    from bigpeft.train.reopen import reopen

    tasks = read_harness(asked.names, asked.folder, asked.shots)
    opened = reopen(recipe, place, Path(recipe.run.folder), world, say)
    reader = plain_reader(opened.plan, opened.rows.tokenizer)
    config = opened.plan.model.config.get_text_config()
    model = Answering(
        opened.generator,
        world,
        recipe.eval.micro_size if recipe.eval else _MICRO_SIZE,
        asked.max_length or getattr(config, "max_position_embeddings", None) or _USUAL_LIMIT,
        stop_tokens(reader),
        reader.chat.template,
    )
    return ask(tasks, model, asked.limit, asked.chat)


def show(scores: _Scores, terminal: "Terminal", as_json: bool) -> None:
    """As one JSON object, or as a table."""
    if as_json:
        told = {
            task: {metric: score.as_json() for metric, score in own.items()}
            for task, own in scores.items()
        }
        terminal.say(json.dumps(told))
        return
    table = Table("task", "metric", "value", "± 1 σ", "rows", box=None, header_style="bold")
    for task, own in scores.items():
        for metric, score in own.items():
            error = "" if score.stderr is None else f"{score.stderr:.4f}"
            rows = "" if score.rows is None else str(score.rows)
            table.add_row(task, metric, f"{score.value:.4f}", error, rows)
    terminal.show(table)
