"""Held-out rows: mean loss, and how often the right choice is the likeliest.

Rows are dealt over ranks in micro-batches; every rank makes the same number of forward passes
(ZeRO-3 gathers in all of them), with empty ones where the rows run out. The sums are over rows,
so the result does not depend on the world size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bigpeft.checkpoint.engine import Engine
from bigpeft.data import Choices, Tokens, collate
from bigpeft.train.logits import TargetLogits, target_logits, target_tokens
from bigpeft.train.step import global_sum
from bigpeft.world import World


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows as tokens, and the choices of each row where the recipe names some."""

    tokens: Tokens
    choices: Choices | None
    micro_size: int
    pad_id: int


@dataclass(frozen=True)
class Result:
    """`eval_loss` in nats per target token; `eval_accuracy` a share of the rows, or None."""

    eval_loss: float
    eval_accuracy: float | None

    def as_metrics(self) -> dict[str, float]:
        """For metrics.jsonl and summary.json."""
        metrics = {"eval_loss": self.eval_loss}
        if self.eval_accuracy is not None:
            metrics["eval_accuracy"] = self.eval_accuracy
        return metrics


def evaluate(engine: Engine, held_out: HeldOut, world: World) -> Result:
    """Evaluate over all ranks; the model is back in training mode afterwards."""
    rows = len(held_out.tokens)
    per_pass = held_out.micro_size * world.size
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)
    engine.eval()
    with torch.no_grad():
        for start in range(0, rows, per_pass):
            first = start + world.rank * held_out.micro_size
            mine = list(range(first, min(first + held_out.micro_size, rows)))
            sums += _pass(engine, held_out, mine)
    engine.train()
    loss, tokens, right = global_sum(sums).tolist()
    accuracy = right / rows if held_out.choices is not None else None
    return Result(loss / max(tokens, 1), accuracy)


def _pass(engine: Engine, held_out: HeldOut, rows: list[int]) -> Tensor:
    """(sum of losses, target tokens, right choices) of one micro-batch."""
    batch = collate(held_out.tokens, rows, held_out.pad_id)
    found = target_logits(engine, batch)
    right = torch.zeros((), dtype=torch.float64, device=engine.device)
    if held_out.choices is not None and rows:
        right = _right_choices(found, held_out.choices, rows)
    loss = found.loss_sum().double()
    return torch.stack([loss, torch.full_like(loss, target_tokens(batch)), right])


def _right_choices(found: TargetLogits, choices: Choices, rows: list[int]) -> Tensor:
    """Rows whose right option has the largest logit where the options part."""
    device = found.logits.device
    before = choices.position[rows].to(device) - 1
    column = torch.searchsorted(found.positions, before)
    at = found.logits[torch.arange(len(rows), device=device), column]
    guess = at.gather(1, choices.options[rows].to(device)).argmax(1)
    return (guess == choices.answer[rows].to(device)).sum().double()
