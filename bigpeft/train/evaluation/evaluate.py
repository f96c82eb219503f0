"""Held-out rows over all ranks: scored, judged option by option, answered."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bigpeft.checkpoint.engine import Engine
from bigpeft.data import OptionRows
from bigpeft.metrics import Measured, Options, metrics
from bigpeft.train.evaluation.result import Result
from bigpeft.train.evaluation.score import score
from bigpeft.train.evaluation.task import Asked, Task
from bigpeft.train.generation import Generator
from bigpeft.world import World


def evaluate(generator: Generator, tasks: Sequence[Task], micro_size: int, world: World) -> Result:
    """The same figures on all ranks; the model is back in training mode afterwards."""
    engine = generator.engine
    engine.eval()
    found = {task.name: _figures(generator, task, micro_size, world) for task in tasks}
    engine.train()
    return Result(found)


def _figures(generator: Generator, task: Task, micro_size: int, world: World):
    engine, pad_id = generator.engine, generator.pad_id
    scores = score(engine, task.tokens, task.choices, micro_size, pad_id, world)
    measured = Measured(
        loss=scores[:, 0],
        targets=scores[:, 1],
        hits=scores[:, 2],
        parting=None if task.choices is None else scores[:, 3].bool(),
        options=None
        if task.options is None
        else _options(engine, task.options, micro_size, pad_id, world),
        answers=None if task.asked is None else _answers(generator, task.asked, micro_size),
    )
    return {name: metrics()[name].of(measured) for name in task.metrics}


def _options(
    engine: Engine, rows: OptionRows, micro_size: int, pad_id: int, world: World
) -> Options:
    scores = score(engine, rows.tokens, None, micro_size, pad_id, world)
    shape = (len(rows.counts), int(rows.counts.max()))
    there = torch.arange(shape[1]) < rows.counts[:, None]
    likelihood = torch.full(shape, -torch.inf, dtype=torch.float64)
    tokens = torch.ones(shape, dtype=torch.float64)
    likelihood[there], tokens[there] = -scores[:, 0], scores[:, 1]
    return Options(likelihood, tokens, rows.right)


def _answers(generator: Generator, asked: Asked, micro_size: int) -> Tensor:
    texts = generator.texts(asked.prompts, asked.sampling, micro_size)
    return torch.tensor([asked.is_right(index, text) for index, text in enumerate(texts)])
