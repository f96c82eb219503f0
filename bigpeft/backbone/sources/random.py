"""Weights that no file holds."""

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from bigpeft.backbone.slots import empty_slots
from bigpeft.backbone.sources.source import WeightSource
from bigpeft.world import stable_seed

_PIECE = 1 << 24


def written_dtype(config: PretrainedConfig) -> torch.dtype:
    """What the configuration says of the model's files, fp32 where it says nothing."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


class RandomWeights(WeightSource):
    """Normal matrices, zero biases and norms of one, each a function of (seed, name) alone.

    In the dtype of `written_dtype`.
    """

    owned = True

    def __init__(self, model: PreTrainedModel, std: float, seed: int) -> None:
        super().__init__()
        self._shapes = {slot.names[0]: slot.shape for slot in empty_slots(model)}
        self._dtype = written_dtype(model.config)
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
