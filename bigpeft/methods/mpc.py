"""Matrix pattern constraints on two low-rank factors, MPC (Si et al., arXiv 2407.05417, IV.B).

With the Grams GA = A Aᵀ and GB = Bᵀ B, both (rank, rank) and in fp32:

    o   ‖GA - I‖² + ‖GB - I‖²             Eq. 25, where a diagonal lies between the factors
    d   ‖GA - I‖² + ‖GB - diag GB‖²       Eq. 26, where nothing does
    n   a function f between them, y = base(x) + s · B f(A x), no penalty

The paper gives neither the weight of the penalty nor its mean over linears; its authors' code has
for AdaLoRA the mean of the norms themselves over all factors, which is `norm: fro`. The text lets
either factor be the orthonormal one in d; Eq. 26 has A. With f = ReLU, n is the parallel adapter.
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor
from torch.nn import functional as F

from bigpeft.methods.algebra import widen
from bigpeft.methods.base import MethodOptions

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
Activation = Literal["relu", "silu", "tanh"]


class Mpc(MethodOptions):
    """A constraint on the factors of a low-rank method."""

    pattern: Literal["o", "d", "n"] = Field(
        description="o: both factors orthonormal; d: one orthonormal, the other orthogonal; "
        "n: a function between them"
    )
    weight: NonNegativeFloat = Field(0.01, description="o, d: factor of the penalty in the loss")
    norm: Literal["fro2", "fro"] = Field(
        "fro2", description="o, d: squared Frobenius norms, or half the sum of the norms"
    )
    orthonormal: Literal["A", "B"] = Field("A", description="d: the factor that is orthonormal")
    activation: Activation = Field("relu", description="n: the function")
    orthonormal_start: bool = Field(
        False,
        description="start A with orthonormal rows, where the penalty on it is zero; B too, unless "
        "it starts at zero",
    )

    @model_validator(mode="after")
    def _takes_only_its_own(self) -> Self:
        foreign = {"weight", "norm"} if self.pattern == "n" else {"activation"}
        if self.pattern != "d":
            foreign.add("orthonormal")
        if wrong := self.changed(foreign):
            raise ValueError(f"has {', '.join(wrong)}, which pattern {self.pattern} does not take")
        return self

    def penalty(self, a: Tensor, b: Tensor) -> Tensor | None:
        """The weighted term of one linear, a scalar in at least fp32; None for n.

        a (rank, in_features), b (out_features, rank).
        """
        if self.pattern == "n":
            return None
        a, b = widen(a), widen(b)
        grams = {"A": a @ a.t(), "B": b.t() @ b}
        terms = [self._distance(name, gram) for name, gram in grams.items()]
        if self.norm == "fro":
            return self.weight * (_length(terms[0]) + _length(terms[1])) / 2
        return self.weight * (terms[0].square().sum() + terms[1].square().sum())

    def _distance(self, name: str, gram: Tensor) -> Tensor:
        """What has to vanish."""
        if self.pattern == "d" and name != self.orthonormal:
            return gram - torch.diag(torch.diagonal(gram))
        return gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _length(matrix: Tensor) -> Tensor:
    """Frobenius norm, with slope zero where the matrix is zero."""
    square = matrix.square().sum()
    return square.clamp(min=torch.finfo(matrix.dtype).tiny).sqrt()
