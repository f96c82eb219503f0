"""The eval section of a recipe → held-out rows, ready for the model."""

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

from bigpeft.data import (
    Prompt,
    Reader,
    Rows,
    choice_rows,
    end_of_turn,
    option_rows,
    read_prompts,
)
from bigpeft.metrics import metrics
from bigpeft.plan import Plan
from bigpeft.recipe import HELD_OUT, KEPT, EvalTask, Evaluation
from bigpeft.train.evaluation.task import Asked, Task
from bigpeft.train.generation import Sampling
from bigpeft.train.rows import Preparation

_SAMPLE_TOKENS = 128


def read_tasks(
    plan: Plan, rows: Preparation, wanted: Collection[str] | None = None
) -> tuple[Task, ...]:
    """All tasks of the recipe, or those `wanted`, in its order. Raises DataError or FileError."""
    asked = plan.recipe.eval
    if asked is None:
        return ()
    names = [name for name in asked.measured() if wanted is None or name in wanted]
    return tuple(_task(plan, rows, asked, name) for name in names)


def read_samples(plan: Plan, rows: Preparation) -> list[Prompt]:
    """The first `eval.samples` rows of the first source. Raises DataError."""
    asked = plan.recipe.eval
    if asked is None or not asked.samples:
        return []
    first = next(iter(asked.measured()))
    return read_prompts(_readers(rows, asked, first)[0], asked.samples)


def sampling_of_samples(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Sampling:
    """How the samples are answered: greedily."""
    return Sampling(_SAMPLE_TOKENS, stop=stop_tokens(plain_reader(plan, tokenizer)))


def plain_reader(plan: Plan, tokenizer: PreTrainedTokenizerBase) -> Reader:
    """Of no rows: the template of the recipe for conversations that come from elsewhere."""
    return Reader(Rows(()), tokenizer, template=plan.recipe.data.template)


def stop_tokens(reader: Reader) -> tuple[int, ...]:
    """Token ids that end an answer."""
    marks = (reader.tokenizer.eos_token_id, end_of_turn(reader))
    return tuple(dict.fromkeys(mark for mark in marks if isinstance(mark, int)))


def _readers(rows: Preparation, asked: Evaluation, name: str) -> list[Reader]:
    if name == HELD_OUT and asked.path == KEPT:
        return rows.of_training(held_out=True)
    if name == HELD_OUT:
        assert asked.path is not None
        return [rows.reader(asked.path, asked.limit, asked.split)]
    task = asked.tasks[name]
    return [rows.reader(task.path, task.limit, task.split, task.format, task.columns)]


def _task(plan: Plan, rows: Preparation, asked: Evaluation, name: str) -> Task:
    readers = _readers(rows, asked, name)
    reader = readers[0]
    tokens = rows.tokens("eval" if name == HELD_OUT else f"eval-{name}", readers)
    names = asked.measured()[name]
    needs = {metrics()[metric].needs for metric in names}
    task = asked.tasks.get(name)
    choices = task.choices if task is not None else asked.choices
    return Task(
        name=name,
        metrics=names,
        tokens=tokens,
        choices=choice_rows(reader, tokens, choices) if "parting" in needs else None,
        options=option_rows(
            reader, choices, task and task.choices_column, plan.recipe.data.max_length
        )
        if "options" in needs
        else None,
        asked=_asked(reader, task) if task is not None and "answers" in needs else None,
    )


def _asked(reader: Reader, task: EvalTask) -> Asked:
    sampling = Sampling(task.max_new_tokens, stop=stop_tokens(reader))
    return Asked(read_prompts(reader), sampling, task.pattern)
