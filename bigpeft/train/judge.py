"""What judges a run: evaluations when they are due, sample answers, and when it is enough."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from bigpeft.checkpoint.engine import Engine
from bigpeft.methods import InputMethod
from bigpeft.plan import Plan
from bigpeft.train.due import due
from bigpeft.train.evaluation import Patience, Result, evaluate
from bigpeft.train.evaluation.read import sampling_of_samples
from bigpeft.train.folder import write_json
from bigpeft.train.generation import Generator
from bigpeft.train.inputs import Inputs
from bigpeft.train.metrics import read_rows

BEFORE, EVAL, SAMPLES = "before.json", "eval.json", "samples.jsonl"


def make_generator(plan: Plan, engine: Engine, tokenizer: PreTrainedTokenizerBase) -> Generator:
    """The model of this plan as one that answers."""
    virtual = any(isinstance(method, InputMethod) for method in plan.seated.values())
    return Generator(engine, tokenizer, by_rows=virtual)


class Judge:
    """All calls but `is_satisfied` are collective over all ranks; the first one writes."""

    def __init__(self, plan: Plan, engine: Engine, inputs: Inputs, folder: Path, done: int) -> None:
        self._plan, self._inputs, self._folder = plan, inputs, folder
        self._generator = make_generator(plan, engine, inputs.tokenizer)
        self._first = dist.get_rank() == 0
        asked, best = plan.recipe.eval, plan.recipe.checkpoint.best_by
        self._micro_size = asked.micro_size if asked else 1
        self._patience = Patience(
            best or "eval_loss", asked and asked.patience, asked.min_delta if asked else 0.0
        )
        if done:
            self._patience.see(_first_ranks(list(_evaluations(folder, done))))

    def before(self) -> Result | None:
        """Before the first step of a fresh run."""
        self._answer("before")
        result = self._evaluate("before")
        if result is not None and self._first:
            write_json(self._folder / BEFORE, result.as_metrics())
        return result

    def after(self, step: int, last: bool) -> Result | None:
        """After this step, None unless an evaluation is due."""
        if not (last or due(self._plan.recipe.train.evaluate_every, step)):
            return None
        return self._evaluate("after")

    @property
    def is_satisfied(self) -> bool:
        """Whether more steps would be in vain."""
        return self._patience.is_over

    @property
    def reason(self) -> str:
        """Why it is satisfied."""
        return str(self._patience)

    def finish(self) -> None:
        """After the last step."""
        self._answer("after")

    def _evaluate(self, moment: str) -> Result | None:
        if not self._inputs.tasks:
            return None
        result = evaluate(self._generator, self._inputs.tasks, self._micro_size, self._plan.world)
        self._patience.see([result.as_metrics()])
        if self._first:
            path = self._folder / EVAL
            known = json.loads(path.read_text()) if path.exists() and moment != "before" else {}
            write_json(path, {**known, moment: result.as_json()})
        return result

    def _answer(self, moment: str) -> None:
        """Write what the model says now beside what it said before."""
        prompts = self._inputs.samples
        if not prompts:
            return
        sampling = sampling_of_samples(self._plan, self._inputs.tokenizer)
        texts = self._generator.texts(prompts, sampling, self._micro_size)
        if not self._first:
            return
        path = self._folder / SAMPLES
        empty = [
            {"prompt": p.text, "expected": p.expected, "before": None, "after": None}
            for p in prompts
        ]
        known = read_rows(path) if moment == "after" else []
        rows = known if len(known) == len(prompts) else empty
        lines = [json.dumps({**row, moment: text}) for row, text in zip(rows, texts, strict=True)]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in lines))
        temporary.replace(path)


def _evaluations(folder: Path, done: int) -> Iterator[dict[str, Any]]:
    """What the run was judged before its first step and up to step `done`."""
    if (folder / BEFORE).exists():
        yield json.loads((folder / BEFORE).read_text())
    for row in read_rows(folder / "metrics.jsonl"):
        if row["step"] <= done:
            yield {key: value for key, value in row.items() if key.startswith("eval_")}


def _first_ranks(found: list[Any]) -> list[Any]:
    """The list of the first rank, on all: no rank sees another state of a shared disk."""
    told = [found if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told, 0)
    return told[0] or []
