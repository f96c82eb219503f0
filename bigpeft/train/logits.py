"""Logits where the loss needs them, and nowhere else.

In a chat row a few tokens are learned and the vocabulary is large: the head's product over every
position can cost as much as several blocks. Positions that no row of the micro-batch learns from
are left out before the head, where the model can do that.
"""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bigpeft.checkpoint.engine import Engine

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TargetLogits:
    """`positions` int64 (k,) ascending, `logits` (b, k, v) there, `labels` (b, k) what follows."""

    positions: Tensor
    logits: Tensor
    labels: Tensor

    def loss_sum(self) -> Tensor:
        """Sum of −log p over the target tokens, in fp32."""
        return F.cross_entropy(
            self.logits.flatten(0, 1).float(),
            self.labels.flatten(),
            reduction="sum",
            ignore_index=-100,
        )


def target_logits(engine: Engine, batch: Batch) -> TargetLogits:
    """One forward pass; the batch is on the CPU and holds labels (b, t), −100 where none.

    All of it but labels and `tokens` is what the model takes.
    """
    following = batch["labels"][:, 1:]
    wanted = (following != -100).any(0)
    wanted[0] |= ~wanted.any()
    positions = wanted.nonzero().flatten()
    device = engine.device
    labels = following[:, positions].to(device, non_blocking=True)
    positions = positions.to(device, non_blocking=True)
    ours = ("labels", "tokens")
    inputs = {k: v.to(device, non_blocking=True) for k, v in batch.items() if k not in ours}
    if "logits_to_keep" in inspect.signature(engine.module.forward).parameters:
        logits = engine(**inputs, logits_to_keep=positions).logits
    else:
        logits = engine(**inputs).logits[:, positions]
    return TargetLogits(positions, logits, labels)


def target_tokens(batch: Batch) -> int:
    """Number of tokens of a micro-batch on which the loss falls."""
    return int((batch["labels"][:, 1:] != -100).sum())


def all_tokens(batch: Batch) -> int:
    """Number of tokens of a micro-batch, padding apart."""
    return int(batch["tokens"] if "tokens" in batch else batch["attention_mask"].sum())


def counts(micro_batches: list[Batch], device: torch.device) -> Tensor:
    """(target tokens, all tokens) of some micro-batches, fp64 (2,)."""
    pairs = [(target_tokens(batch), all_tokens(batch)) for batch in micro_batches]
    return torch.tensor(pairs, dtype=torch.float64, device=device).sum(0)
