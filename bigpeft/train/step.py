"""One optimizer step."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from bigpeft.checkpoint.engine import Engine
from bigpeft.errors import DataError
from bigpeft.train.adapters import Adapters
from bigpeft.train.engine import gradient_norm, unreduced_norm
from bigpeft.train.logits import Batch, counts, target_logits


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did, all ranks together. `tokens` are all but padding.

    `loss` is that of the tokens alone, `penalty` what the methods' constraints add to it.
    """

    loss: float
    penalty: float | None
    grad_norm: float
    tokens: int
    target_tokens: int


def train_step(
    engine: Engine, adapters: Adapters, micro_batches: list[Batch], step: int
) -> StepRecord:
    """One optimizer step over this rank's share of the global batch.

    The objective is the mean over every target token of the global batch, so neither the world
    size nor the cut into micro-batches changes the gradient. DeepSpeed averages over both; `scale`
    turns its mean of means back into a sum over tokens. The penalty, which is the same on all
    ranks, joins the last micro-batch, as often as DeepSpeed then divides it. Raises DataError,
    before the update, when the loss is not finite.
    """
    steps = engine.gradient_accumulation_steps()
    targets, tokens = global_sum(counts(micro_batches, engine.device)).tolist()
    scale = steps * dist.get_world_size() / targets
    loss_sum = torch.zeros((), device=engine.device)
    loss, norm, penalty = 0.0, None, None
    for number, batch in enumerate(micro_batches, start=1):
        token_loss = target_logits(engine, batch).loss_sum()
        last = number == len(micro_batches)
        penalty = adapters.penalty() if last else None
        objective = scale * token_loss
        engine.backward(objective if penalty is None else objective + steps * penalty)
        loss_sum += token_loss.detach()
        if last:
            loss = float(global_sum(loss_sum) / targets)
            _stop_unless_finite(loss, step)
            norm = unreduced_norm(engine)
            adapters.before_step(step)
        engine.step()
    return StepRecord(
        loss=loss,
        penalty=None if penalty is None else float(penalty),
        grad_norm=gradient_norm(engine, norm),
        tokens=int(tokens),
        target_tokens=int(targets),
    )


def global_sum(value: Tensor) -> Tensor:
    """Sum over all ranks, the same on each."""
    dist.all_reduce(value)
    return value


def _stop_unless_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise DataError(
            f"step {step}",
            f"the loss is {loss}; the weights have not been updated with it",
            "lower optimizer.learning_rate, or look at the rows of this step; "
            "checkpoint.resume=auto goes on from the last checkpoint",
        )
