"""OFT, rotations of the input in blocks (Qiu et al., arXiv 2306.07280; Qiu et al., 2506.19847).

    W' = W Rᵀ        y = base(x R)        R = diag(R_1 … R_m), R_j = (I - Q_j)(I + Q_j)⁻¹

Q_j is skew, kept as its block_size · (block_size - 1) / 2 entries above the diagonal. Rotating x
instead of W is the input-centric form of OFTv2. Trains in_features · (block_size - 1) / 2 numbers
per linear and starts as the identity. R is the exact Cayley map in at least fp32, so it stays
orthogonal; HF peft's default is a truncated series (use_cayley_neumann), which does not.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from bigpeft.methods.algebra import at_least_fp32, cayley, rotate_blocks, skew
from bigpeft.methods.base import LinearMethod, MethodOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat
from bigpeft.methods.shapes import refuse_uneven_blocks


class OFT(LinearMethod):
    """One rotation per block of input features."""

    class Options(MethodOptions):
        """The size of the blocks."""

        block_size: int = Field(32, ge=2, description="features that rotate together")

    family = "reconstruction"
    source = "arXiv 2306.07280"
    learning_rate = 5e-5
    learning_rate_source = "benchmarks/learn.py"
    moves = (
        "the directions of W's input side, rotated in blocks; lengths and angles between rows stay"
    )
    when = "what the model knows must keep its geometry"
    hf_peft = "OFT with the exact Cayley map"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        size = options.block_size
        refuse_uneven_blocks(linear, size, size)
        self.block_size = size
        shape = (linear.in_features // size, size * (size - 1) // 2)
        self.upper = nn.Parameter(torch.empty(shape, device=linear.device))

    def blocks(self, dtype: torch.dtype) -> Tensor:
        """R_1 … R_m (in_features / block_size, block_size, block_size) in this dtype."""
        return cayley(skew(self.upper.to(dtype), self.block_size))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        return linear.base(rotate_blocks(x, self.blocks(at_least_fp32(x.dtype))))

    def merge(self, weight: Tensor) -> Tensor:
        """W Rᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        return rotate_blocks(weight.to(wide), self.blocks(wide).mT).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """OFT without its truncated series."""
        config = {"r": 0, "oft_block_size": self.block_size, "use_cayley_neumann": False}
        return [PeftForm("OFT", {"oft_R.weight": self.upper}, config)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """in_features · (block_size - 1) / 2."""
        assert isinstance(options, OFT.Options)
        return linear.in_features * (options.block_size - 1) // 2
