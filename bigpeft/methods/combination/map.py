"""MAP, direction and magnitude of W and of its update apart (Si et al., arXiv 2505.23094).

    W' = (1 + scale_base) · W + (1 + scale_update) · B A / (‖B A‖_F + epsilon)

The paper writes a W / ‖W‖_F with a from ‖W‖_F on; that is (1 + scale_base) · W, which needs no
norm of W. ‖B A‖_F comes from the rank × rank Grams of A and B and takes part in the gradient.

Trains rank · (in_features + out_features) + 2 numbers per linear and starts as the identity. As
soon as B leaves zero the update has Frobenius norm 1, whatever the learning rate, and until then
the gradient of B is 1 / epsilon times LoRA's: clip gradients, and start with a warm-up.
"""

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from bigpeft.methods.algebra import at_least_fp32, scale_features
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.low_rank import FactorOptions, Factors
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat


class MAP(Factors):
    """Low-rank extension of unit norm, and one scale each for W and for it."""

    class Options(FactorOptions):
        """The rank, and what keeps the norm from zero."""

        epsilon: PositiveFloat = Field(1e-6, description="added to the norm of B A")

    family = "combination"
    source = "arXiv 2505.23094"
    moves = "the size of W and of a change of rank r and norm one, apart"
    when = "the strength of the update should be one number that one can read"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options.rank)
        self.epsilon = options.epsilon
        self.scale_base = nn.Parameter(torch.empty(1, device=linear.device))
        self.scale_update = nn.Parameter(torch.empty(1, device=linear.device))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        factor = self.update_factor(at_least_fp32(x.dtype))
        return scale_features(linear.base(x), self.scale_base) + self.product(x) * factor.to(
            x.dtype
        )

    def update_factor(self, dtype: torch.dtype) -> Tensor:
        """(1 + scale_update) / (‖B A‖_F + epsilon), shape (1), with no slope in it at B = 0."""
        a, b = self.lora_A.to(dtype), self.lora_B.to(dtype)
        square = ((b.t() @ b) * (a @ a.t())).sum()
        norm = square.clamp(min=torch.finfo(torch.float32).tiny).sqrt()
        return (1 + self.scale_update.to(dtype)) / (norm + self.epsilon)

    def merge(self, weight: Tensor) -> Tensor:
        """Scaled W and normalised B A, same dtype."""
        wide = at_least_fp32(weight.dtype)
        update = self.dense_product(wide) * self.update_factor(wide)
        return ((1 + self.scale_base.to(wide)) * weight + update).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """None: what HF peft adds to W leaves the size of W alone."""
        raise NoPeftForm("scales W itself beside its update, which no adapter of HF peft does")

    def role(self, parameter: str) -> Role:
        """The two scales are never decayed."""
        return Role(parameter, decay=not parameter.startswith("scale"))

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + 2."""
        return super().count(options, linear) + 2
