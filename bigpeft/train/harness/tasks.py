"""Tasks of lm-evaluation-harness: found by name, asked, and what came out."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval.tasks import TaskManager
from lm_eval.tasks.manager import TaskDict

from bigpeft.errors import DataError, FileError, RecipeError
from bigpeft.train.harness.answering import Answering

_SEED, _OTHER_SEED = 0, 1234  # the harness's own, so that it draws the same examples
_RESAMPLES = 1000  # of an error that has no formula: good to some per cent of itself


@dataclass(frozen=True)
class Score:
    """A metric over `rows` rows and its standard error, None where the harness tells none."""

    value: float
    stderr: float | None
    rows: int | None

    def as_json(self) -> dict[str, float | None]:
        """For --json."""
        return asdict(self)


def read_harness(names: Sequence[str], folder: Path | None, shots: int | None) -> TaskDict:
    """Tasks, groups or tags of these names, those in YAML files under `folder` included.

    `shots` solved examples precede each question, where the task does not insist on none. Raises
    FileError for a folder that is not there, RecipeError for a name that is no task, DataError
    where a task's rows cannot be had.
    """
    if folder is not None and not folder.is_dir():
        raise FileError(str(folder), "is no folder of tasks", "name one with YAML files of tasks")
    random.seed(_SEED)
    np.random.seed(_OTHER_SEED)
    torch.manual_seed(_OTHER_SEED)
    manager = TaskManager(include_path=None if folder is None else str(folder))
    for name in names:
        if name not in manager.all_tasks:
            near = get_close_matches(name, manager.all_tasks, n=3)
            raise RecipeError(
                f"--harness {name}",
                "is no task of the harness",
                f"did you mean {' or '.join(near)}?" if near else "name a task, a group or a tag",
            )
    try:
        loaded = manager.load(list(names))
    except Exception as error:  # a task's YAML is code, and so is the loading of its data set
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"--harness {' '.join(names)}",
            f"cannot be loaded ({type(error).__name__}: {reason})",
            "without network, name a task over local files with --harness-tasks",
        ) from error
    for name, task in loaded["tasks"].items():
        _refuse_what_is_not_only_asked(name, task)
        own = task.get_config("num_fewshot")
        if own is None or (shots is not None and own != 0):
            task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=_OTHER_SEED)
    return loaded


def _refuse_what_is_not_only_asked(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise RecipeError(
            f"--harness {name}",
            "runs programs that the model writes",
            "merge the run and give the model to lm_eval itself, in a box that may break",
        )
    if getattr(task, "MULTIMODAL", False):
        raise RecipeError(f"--harness {name}", "shows images", "take a task of text alone")


def ask(
    tasks: TaskDict, model: Answering, limit: int | None, chat: bool
) -> dict[str, dict[str, Score]]:
    """Task or group → metric → score, the same on all ranks; the first `limit` rows of each task.

    With `chat` questions go through the chat template, examples as turns. Raises DataError.
    """
    engine = model.engine
    engine.eval()
    os.environ["DISABLE_MULTIPROC"] = "1"  # errors are resampled here, not in forks of every rank
    evaluate: Any = lm_eval.evaluate
    found = evaluate(
        lm=model,
        task_dict=tasks,
        limit=limit,
        bootstrap_iters=_RESAMPLES,
        log_samples=False,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )
    engine.train()
    assert found is not None
    rows = found["n-samples"]
    return {
        task: _scores(figures, rows.get(task, {}).get("effective"))
        for task, figures in found["results"].items()
    }


def _scores(figures: Mapping[str, Any], rows: int | None) -> dict[str, Score]:
    """From `acc,none` and `acc_stderr,none`; a filter of the answers is told where there is one."""
    found = {}
    for key, value in figures.items():
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{metric}_stderr,{filtered}")
        name = metric if filtered == "none" else f"{metric} ({filtered})"
        known = float(error) if isinstance(error, int | float) else None
        found[name] = Score(float(value), known, rows)
    return found
