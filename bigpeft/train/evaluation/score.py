"""How likely rows are: a forward pass over each, dealt over all ranks.

Every rank makes the same number of passes (ZeRO-3 gathers in all of them), with empty ones where
the rows run out. Which rows share a pass, and so how they are padded, depends on their number and
`micro_size` alone, and the numbers are kept per row: the result does not depend on the world size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from bigpeft.checkpoint.engine import Engine
from bigpeft.data import Choices, Tokens, collate
from bigpeft.train.logits import TargetLogits, target_logits
from bigpeft.train.step import global_sum
from bigpeft.world import World


def deal(rows: int, micro_size: int, world: World) -> list[list[int]]:
    """Rows of each pass of this rank; as many passes on all ranks, the last ones may be empty."""
    per_pass = micro_size * world.size
    firsts = [start + world.rank * micro_size for start in range(0, rows, per_pass)]
    return [list(range(first, min(first + micro_size, rows))) for first in firsts]


def score(
    engine: Engine,
    tokens: Tokens,
    choices: Choices | None,
    micro_size: int,
    pad_id: int,
    world: World,
) -> Tensor:
    """fp64 (rows, 4) on the CPU, the same on all ranks: Σ −log p of a row's targets, their number,
    how many were the likeliest token, and whether the right choice was where they part.
    """
    found = torch.zeros(len(tokens), 4, dtype=torch.float64, device=engine.device)
    with torch.no_grad():
        for rows in deal(len(tokens), micro_size, world):
            logits = target_logits(engine, collate(tokens, rows, pad_id))
            if rows:
                found[rows] = _numbers(logits, choices, rows)
    return global_sum(found).cpu()


def _numbers(found: TargetLogits, choices: Choices | None, rows: list[int]) -> Tensor:
    losses = F.cross_entropy(
        found.logits.flatten(0, 1).float(),
        found.labels.flatten(),
        reduction="none",
        ignore_index=-100,
    )
    learned = found.labels != -100
    hits = (found.logits.argmax(-1) == found.labels) & learned
    columns = [losses.view_as(found.labels).double().sum(1), learned.sum(1), hits.sum(1)]
    columns.append(
        torch.zeros_like(columns[0]) if choices is None else _right_choices(found, choices, rows)
    )
    return torch.stack([column.double() for column in columns], dim=1)


def _right_choices(found: TargetLogits, choices: Choices, rows: list[int]) -> Tensor:
    """Rows whose right option has the largest logit where the options part."""
    device = found.logits.device
    before = choices.position[rows].to(device) - 1
    column = torch.searchsorted(found.positions, before)
    at = found.logits[torch.arange(len(rows), device=device), column]
    guess = at.gather(1, choices.options[rows].to(device)).argmax(1)
    return guess == choices.answer[rows].to(device)
