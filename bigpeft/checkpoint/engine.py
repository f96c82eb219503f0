"""What bigpeft uses of a DeepSpeed engine, with types that DeepSpeed's own annotations lack."""

from typing import Any, Protocol

import torch
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn


class Engine(Protocol):
    """A DeepSpeed engine over a causal language model."""

    optimizer: Any
    module: nn.Module
    device: torch.device

    def __call__(self, **batch: Tensor) -> Any:
        """The model's output, with `logits`."""
        ...

    def backward(self, loss: Tensor) -> object:
        """Accumulate gradients."""
        ...

    def step(self) -> object:
        """Update, after the last micro-batch of a step."""
        ...

    def train(self) -> object:
        """Training mode."""
        ...

    def eval(self) -> object:
        """Evaluation mode."""
        ...

    def gradient_accumulation_steps(self) -> int:
        """Micro-batches per step."""
        ...

    def zero_optimization_stage(self) -> int:
        """The ZeRO stage."""
        ...

    def fp16_enabled(self) -> bool:
        """Whether losses are scaled."""
        ...

    def get_global_grad_norm(self) -> Any:
        """The norm before clipping, where the optimizer measures it."""
        ...


def accelerator() -> Any:
    """DeepSpeed's accelerator interface: the one way to the device."""
    return get_accelerator()
