"""BitFit, a trained bias (Ben Zaken et al., arXiv 2106.10199).

    y = base(x) + offset

The paper trains the biases that a model has; many decoders have none, so every target gets an
offset, beside its own bias where there is one. Trains out_features numbers per linear, starts as
the identity, and cannot merge into a weight.
"""

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear


class BitFit(LinearMethod):
    """One offset per output feature."""

    class Options(MethodOptions):
        """How fast it learns."""

        learning_rate_scale: PositiveFloat = Field(
            10, description="offsets want a larger learning rate than low-rank factors"
        )

    family = "reconstruction"
    source = "arXiv 2106.10199"
    moves = "where outputs are centred; W itself stays"
    when = "models with biases, or a baseline that costs nothing"
    learning_rate = 1e-4
    learning_rate_source = "arXiv 2106.10199, × 10 for offsets"
    mergeable = False

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        self.learning_rate_scale = options.learning_rate_scale
        self.offset = nn.Parameter(torch.empty(linear.out_features, device=linear.device))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, the bias of W not included."""
        return linear.base(x) + self.offset.to(x.dtype)

    def role(self, parameter: str) -> Role:
        """Offsets: no decay, their own learning rate."""
        return Role(parameter, learning_rate_scale=self.learning_rate_scale, decay=False)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """out_features."""
        return linear.out_features
