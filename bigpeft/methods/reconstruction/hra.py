"""HRA, a chain of Householder reflections of the input (Yuan et al., arXiv 2405.17484).

    W' = W H_1 ⋯ H_rank        H_j = I - 2 u_j u_jᵀ / ‖u_j‖²        y = base(x H_rank ⋯ H_1)

The chain is one rank-`rank` correction of x: H_1 ⋯ H_rank = I - Ûᵀ T Û with the unit vectors as the
rows of Û and T⁻¹ = I/2 + the strict upper triangle of Û Ûᵀ (Joffrain et al., 2006), in at least
fp32. Trains rank · in_features numbers per linear. The vectors start in equal pairs, whose
reflections undo each other: the rank is even and the start is the identity. HF peft's apply_GS,
which makes the vectors orthogonal, has no such start and is left out.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import LinearMethod, MethodOptions, Role
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat


class HRA(LinearMethod):
    """Reflections of the input features, in pairs."""

    class Options(MethodOptions):
        """How many reflections."""

        rank: int = Field(8, ge=2, multiple_of=2, description="reflections, an even number")

    family = "reconstruction"
    source = "arXiv 2405.17484"
    moves = "the input side of W by a product of reflections; lengths of rows stay"
    when = "as oft, with a rank to choose instead of blocks"
    hf_peft = "HRA"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__()
        shape = (options.rank, linear.in_features)
        self.vectors = nn.Parameter(torch.empty(shape, device=linear.device))

    @torch.no_grad()
    def reset(self) -> None:
        """Pairs of equal vectors, uniform in ±√(2 / rank) as in HF peft."""
        bound = math.sqrt(2 / len(self.vectors))
        half = torch.empty_like(self.vectors[::2]).uniform_(-bound, bound)
        self.vectors.copy_(half.repeat_interleave(2, dim=0))

    def chain(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Û (rank, in_features) and T (rank, rank), upper triangular, in this dtype."""
        unit = F.normalize(self.vectors.to(dtype), dim=1)
        eye = torch.eye(len(unit), dtype=dtype, device=unit.device)
        inverse = eye / 2 + torch.triu(unit @ unit.t(), diagonal=1)
        return unit, torch.linalg.solve_triangular(inverse, eye, upper=True)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        unit, core = self.chain(at_least_fp32(x.dtype))
        down = F.linear(F.linear(x, unit.to(x.dtype)), core.to(x.dtype))
        return linear.base(x - down @ unit.to(x.dtype))

    def merge(self, weight: Tensor) -> Tensor:
        """W H_1 ⋯ H_rank, same dtype."""
        wide = at_least_fp32(weight.dtype)
        unit, core = self.chain(wide)
        return (weight - weight.to(wide) @ unit.t() @ core @ unit).to(weight.dtype)

    def role(self, parameter: str) -> Role:
        """Only the direction of a vector means something, which decay does not change."""
        return Role(parameter, decay=False)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """HRA, whose vectors are columns."""
        config = {"r": len(self.vectors), "apply_GS": False}
        return [PeftForm("HRA", {"hra_u": self.vectors.t()}, config)]

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · in_features."""
        assert isinstance(options, HRA.Options)
        return options.rank * linear.in_features
