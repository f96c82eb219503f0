"""Weights that no file holds."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.backbone.slots import empty_slots
from bigpeft.backbone.sources.source import WeightSource
from bigpeft.world import stable_seed

_PIECE = 1 << 24


class RandomWeights(WeightSource):
    """Normal matrices, zero biases and norms of one, each a function of (seed, name) alone.

    In the dtype that the configuration names for the model's files, fp32 where it names none.
    """

    owned = True

    def __init__(self, model: PreTrainedModel, std: float, seed: int) -> None:
        super().__init__()
        self._shapes = {slot.names[0]: slot.shape for slot in empty_slots(model)}
        self._dtype: torch.dtype = model.config.dtype or torch.float32
        self._std, self._seed = std, seed

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the skeleton asks for."""
        return self._shapes

    def dtype(self, name: str) -> torch.dtype:
        """The same for every tensor."""
        return self._dtype

    def read(self, name: str) -> Tensor:
        """Normal for matrices, zeros for biases, ones for other vectors (norms)."""
        self.digests[name] = f"random, seed {self._seed}, deviation {self._std:g}"
        weight = torch.empty(self._shapes[name], dtype=self._dtype)
        if weight.dim() < 2:
            return weight.fill_(0.0 if name.endswith("bias") else 1.0)
        generator = torch.Generator().manual_seed(stable_seed(self._seed, name))
        for piece in weight.view(-1).split(_PIECE):  # in fp32, never as a whole
            piece.copy_(torch.randn(piece.shape, generator=generator).mul_(self._std))
        return weight
