"""Step tensors without an engine: parameters are their own masters, moments lie beside them."""

import torch
from torch import Tensor, nn


class Alone:
    """One process, nothing cut. Moments are zero until they are written."""

    def __init__(self) -> None:
        self.moments: dict[tuple[int, str], Tensor] = {}

    def gradient(self, parameter: nn.Parameter) -> Tensor:
        """What backward left."""
        assert parameter.grad is not None
        return parameter.grad

    def read(self, parameter: nn.Parameter, key: str | None) -> Tensor:
        """The parameter or a moment."""
        if key is None:
            return parameter.data
        return self.moments.setdefault((id(parameter), key), torch.zeros_like(parameter.data))

    def write(self, parameter: nn.Parameter, key: str | None, value: Tensor) -> None:
        """Set it."""
        self.read(parameter, key).copy_(value)
