"""PiCa, an update over the largest right singular vectors of W (Hwang et al., arXiv 2505.20211).

    W' = W + up · Vᵀ        Vᵀ (rank, in_features) frozen, up (out_features, rank)

V comes from the dense W. Trains rank · out_features numbers per linear and starts as the identity.
The paper also shares `up` between all layers with the same module name; here each layer has its
own, so the adapter is larger than the paper's at the same rank (256 there).
"""

import torch
from torch import Tensor, nn

from bigpeft.methods.algebra import at_least_fp32, down_up, top_singular
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.shapes import refuse_rank_above_sides
from bigpeft.methods.spectral import SpectralOptions


class PiCa(LinearMethod):
    """A trained up-projection over frozen right singular vectors."""

    Options = SpectralOptions
    family = "combination"
    source = "arXiv 2505.20211"
    moves = "outputs for the r largest right singular vectors of W"
    when = "as lora_fa, with input directions that the model itself uses"
    learning_rate = 1e-3
    learning_rate_source = "the authors' scripts"
    needs_dense = True

    def __init__(self, linear: FrozenLinear, options: SpectralOptions) -> None:
        super().__init__()
        refuse_rank_above_sides(linear, options.rank)
        self.iterations = options.iterations
        device = linear.device
        self.up = nn.Parameter(torch.empty(linear.out_features, options.rank, device=device))
        self.right: Tensor
        self.register_buffer("right", torch.empty(options.rank, linear.in_features, device=device))

    def start(self, weight: Tensor) -> Tensor:
        """Right singular vectors of dense W; W itself is frozen."""
        self.right.copy_(top_singular(weight, len(self.right), self.iterations)[2])
        return weight

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        return linear.base(x) + down_up(x, self.right, self.up)

    def merge(self, weight: Tensor) -> Tensor:
        """W + up · Vᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        return (weight + self.up.to(wide) @ self.right.to(wide)).to(weight.dtype)

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · out_features."""
        assert isinstance(options, SpectralOptions)
        return options.rank * linear.out_features
