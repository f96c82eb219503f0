"""PiSSA, LoRA from the principal part of W (Meng et al., arXiv 2404.02948).

    W' = (W - B₀A₀) + B A        B₀ = U √Σ, A₀ = √Σ Vᵀ of the `rank` largest singular triplets

Trains rank · (in_features + out_features) numbers per linear. In 4 bits the residual is what gets
quantised, so the start is Q(W - B₀A₀) + B₀A₀, closer to W than Q(W) (QPiSSA);
with `keep_base` it is Q(W) itself. Merging wants the frozen weight: the residual, unless the base
is kept. HF peft's alpha = rank is the scaling here.
"""

from torch import Tensor

from bigpeft.methods.algebra import top_singular
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.residual import Residual, ResidualOptions
from bigpeft.methods.spectral import SvdOptions


class PiSSA(Residual):
    """Factors that start as the principal part of W."""

    class Options(ResidualOptions, SvdOptions):
        """The form of the residual, and how singular triplets are found."""

    family = "reconstruction"
    source = "arXiv 2404.02948"
    moves = "the principal part of W, as two factors; the residual is frozen"
    when = "LoRA learns too slowly, or 4 bits cost too much: the residual quantises better"
    learning_rate = 2e-5
    learning_rate_source = "arXiv 2404.02948, HF peft's example"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options)
        self.iterations = options.iterations

    def triplets(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The largest."""
        return top_singular(weight, len(self.lora_A), self.iterations)
