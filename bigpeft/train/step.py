"""One optimizer step."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from bigpeft.checkpoint.engine import Engine
from bigpeft.errors import DataError
from bigpeft.train.engine import gradient_norm, unreduced_norm

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class StepRecord:
    """What one optimizer step did, all ranks together."""

    loss: float
    grad_norm: float
    tokens: int


def train_step(engine: Engine, micro_batches: list[Batch], step: int) -> StepRecord:
    """One optimizer step over this rank's share of the global batch.

    The objective is the mean over every target token of the global batch, so neither the world
    size nor the cut into micro-batches changes the gradient. DeepSpeed averages over both; `scale`
    turns its mean of means back into a sum over tokens. Raises DataError, before the update, when
    the loss is not finite.
    """
    targets = sum(int(target_tokens(batch)) for batch in micro_batches)
    tokens = global_sum(torch.tensor(targets, device=engine.device, dtype=torch.float64))
    scale = float(engine.gradient_accumulation_steps() * dist.get_world_size() / tokens)
    loss_sum = torch.zeros((), device=engine.device)
    loss, norm = 0.0, None
    for number, micro_batch in enumerate(micro_batches, start=1):
        batch = {k: v.to(engine.device, non_blocking=True) for k, v in micro_batch.items()}
        labels = batch.pop("labels")
        token_loss = token_loss_sum(engine(**batch).logits, labels)
        engine.backward(scale * token_loss)
        loss_sum += token_loss.detach()
        if number == len(micro_batches):
            loss = float(global_sum(loss_sum) / tokens)
            _stop_unless_finite(loss, step)
            norm = unreduced_norm(engine)
        engine.step()
    return StepRecord(loss, gradient_norm(engine, norm), int(tokens))


def token_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of −log p over the target tokens; logits (b, t, v), labels (b, t) with −100 elsewhere."""
    shifted = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(shifted, labels[:, 1:].flatten(), reduction="sum", ignore_index=-100)


def target_tokens(batch: Batch) -> Tensor:
    """Number of tokens of a micro-batch on which the loss falls."""
    return (batch["labels"][:, 1:] != -100).sum()


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
