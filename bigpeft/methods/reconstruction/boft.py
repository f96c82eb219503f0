"""BOFT, a rotation of the input made of butterfly factors (Liu et al., arXiv 2311.06243).

    W' = diag(1 + scale) · W Rᵀ        y = (1 + scale) ⊙ base(x R)        R = R_(factors-1) ⋯ R_0

Each R_f = P_f · diag(blocks) · P_fᵀ rotates blocks of features that the permutation P_f brings
together, so `factors` of them mix 2^(factors-1) blocks; one factor is OFT with a scale. Blocks are
exact Cayley maps in at least fp32. Skew matrices are kept by the entries above the diagonal; HF
peft keeps whole blocks, of which half the numbers count, and falls back to one factor where its
CUDA extension does not build. Trains factors · in_features · (block_size - 1) / 2 + out_features
numbers per linear and starts as the identity. The bias is not scaled.
"""

from collections.abc import Sequence
from functools import cache

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bigpeft.errors import ShapeError
from bigpeft.methods.algebra import at_least_fp32, cayley, rotate_blocks, scale_features, skew
from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat
from bigpeft.methods.shapes import refuse_uneven_blocks


class BOFT(LinearMethod):
    """Butterfly rotations of the input features and one scale per output feature."""

    class Options(MethodOptions):
        """The size of the blocks and the number of factors."""

        block_size: int = Field(8, ge=2, description="features that one factor rotates together")
        factors: PositiveInt = Field(2, description="butterfly factors; 1 is OFT with a scale")

    family = "reconstruction"
    source = "arXiv 2311.06243"
    moves = "the input side of W by products of sparse rotations, and the length of rows"
    when = "as oft, where features far apart must mix"
    hf_peft = "BOFT, which wants its CUDA extension for factors > 1"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        size, factors = options.block_size, options.factors
        if factors > 1 and size % 2:
            raise ShapeError(
                linear.name,
                f"block_size {size} is odd, and {factors} butterfly factors halve it",
                "set method.block_size to an even number, or method.factors to 1",
            )
        refuse_uneven_blocks(linear, size, size * 2 ** (factors - 1))
        self.block_size = size
        shape = (factors, linear.in_features // size, size * (size - 1) // 2)
        self.upper = nn.Parameter(torch.empty(shape, device=linear.device))
        self.scale = nn.Parameter(torch.empty(linear.out_features, device=linear.device))

    def blocks(self, dtype: torch.dtype) -> Tensor:
        """(factors, in_features / block_size, block_size, block_size) in this dtype."""
        return cayley(skew(self.upper.to(dtype), self.block_size))

    def turn(self, x: Tensor, blocks: Tensor, factor: int) -> Tensor:
        """X · P diag(blocks) Pᵀ of one factor, in x.dtype."""
        there, back = butterfly(x.shape[-1], self.block_size, factor, x.device)
        return rotate_blocks(x[..., there], blocks)[..., back]

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        turned = x
        for factor, blocks in reversed([*enumerate(self.blocks(at_least_fp32(x.dtype)))]):
            turned = self.turn(turned, blocks, factor)
        return scale_features(linear.base(turned), self.scale)

    def merge(self, weight: Tensor) -> Tensor:
        """diag(1 + scale) W Rᵀ, same dtype."""
        turned = weight.to(at_least_fp32(weight.dtype))
        for factor, blocks in enumerate(self.blocks(turned.dtype)):
            turned = self.turn(turned, blocks.mT, factor)
        return ((1 + self.scale.to(turned.dtype))[:, None] * turned).to(weight.dtype)

    def role(self, parameter: str) -> Role:
        """Scales are never decayed."""
        return Role(parameter, decay=parameter != "scale")

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """BOFT, which takes the skew half of whole blocks."""
        blocks = skew(self.upper.double(), self.block_size)
        scale = (1 + self.scale.double())[:, None]
        config = {
            "boft_block_size": self.block_size,
            "boft_block_num": 0,
            "boft_n_butterfly_factor": len(blocks),
        }
        return [PeftForm("BOFT", {"boft_R": blocks, "boft_s": scale}, config)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """factors · in_features · (block_size - 1) / 2 + out_features."""
        assert isinstance(options, BOFT.Options)
        turning = linear.in_features * (options.block_size - 1) // 2
        return options.factors * turning + linear.out_features


@cache
def butterfly(
    features: int, block_size: int, factor: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where the features of factor number `factor` come from, and where they go back to.

    Factor f takes groups of 2^f blocks, cut into half-blocks, even ones first and odd ones after;
    factor 0 leaves all in place.
    """
    order = torch.arange(features, device=device)
    if factor > 0:
        halves = order.view(-1, 2**factor, 2, block_size // 2)
        order = halves.transpose(1, 2).reshape(-1)
    there = torch.empty_like(order)
    there[order] = torch.arange(features, device=device)
    return there, order
