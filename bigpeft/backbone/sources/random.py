"""Weights that no file holds."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.backbone.slots import empty_slots
from bigpeft.backbone.sources.source import WeightSource
from bigpeft.world import stable_seed


class RandomWeights(WeightSource):
    """Normal matrices, zero biases and norms of one, each a function of (seed, name) alone."""

    def __init__(self, model: PreTrainedModel, std: float, seed: int) -> None:
        super().__init__()
        self._shapes = {slot.names[0]: slot.shape for slot in empty_slots(model)}
        self._std, self._seed = std, seed

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the skeleton asks for."""
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        """They are made in fp32."""
        return torch.float32

    def read(self, name: str) -> Tensor:
        """Normal for matrices, zeros for biases, ones for other vectors (norms)."""
        self.digests[name] = f"random, seed {self._seed}, deviation {self._std:g}"
        shape = self._shapes[name]
        if len(shape) < 2:
            return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
        generator = torch.Generator().manual_seed(stable_seed(self._seed, name))
        return torch.randn(shape, generator=generator).mul_(self._std)
