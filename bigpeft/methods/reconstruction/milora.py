"""MiLoRA, LoRA from the minor part of W (Wang et al., arXiv 2406.09044).

    W' = (W - B₀A₀) + B A        B₀ = U √Σ, A₀ = √Σ Vᵀ of the `rank` smallest singular triplets

Trains rank · (in_features + out_features) numbers per linear. B₀A₀ lies far below the error of
4 bits, so quantising the residual gains nothing: by default the base is kept, and the start is the
identity. Needs the full SVD of every W. Merging wants the frozen weight: W, or the residual without
`keep_base`.
"""

from pydantic import Field
from torch import Tensor

from bigpeft.methods.algebra import bottom_singular
from bigpeft.methods.residual import Residual, ResidualOptions


class MiLoRA(Residual):
    """Factors that start as the minor part of W."""

    class Options(ResidualOptions):
        """The form of the residual."""

        keep_base: bool = Field(True, description="freeze W and subtract frozen copies of A and B")

    family = "reconstruction"
    source = "arXiv 2406.09044"
    moves = "the minor part of W, as two factors; the principal part is frozen"
    when = "new knowledge must not overwrite what the model does best"
    learning_rate = 3e-4
    learning_rate_source = "the authors' scripts"

    def triplets(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The smallest."""
        return bottom_singular(weight, len(self.lora_A))
