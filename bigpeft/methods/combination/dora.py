"""DoRA, LoRA with the length of each row of W' trained apart (Liu et al., arXiv 2402.09353, Eq. 5).

    W' = diag(m / n) · (W + s · B A)    m = ‖rows of W‖ + magnitude    n = ‖rows of W + s · B A‖

n is a constant to the gradient (section 4.3). It needs no dense W at each step:

    n² = ‖rows of W‖² + 2 s · rowsum((W Aᵀ) ⊙ B) + s² · rowsum((B A Aᵀ) ⊙ B)

W Aᵀ comes from `base`: the rank rows of A ride along with the tokens (published also as arXiv
2603.22276). The row norms are those of the weight that `base` multiplies with, so over 4 bits the
start is exactly the identity. Rows of zeros stay zero (HF peft gives NaN there).

Trains rank · (in_features + out_features) + out_features numbers per linear. Dropout acts on the
branch B A alone; in HF peft it also reaches W x, at the price of a second product with W.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bigpeft.methods.algebra import at_least_fp32, scale_features
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import NoPeftForm, PeftForm, PeftSeat

_SHORTEST = 1e-6
_ROWS = 1024


class DoRA(LowRank):
    """Low-rank extension of the directions of W's rows, and their lengths."""

    family = "combination"
    source = "arXiv 2402.09353"
    moves = "length of each row of W' apart from its direction, the direction by rank r"
    when = "lora at a small rank falls short; costs a little more per step"
    extra = "rank more rows per product"
    needs_dense = True
    mpc_patterns = "od"
    hf_peft = "LORA with use_dora"

    def __init__(self, linear: FrozenLinear, options: LowRankOptions) -> None:
        super().__init__(linear, options)
        device = linear.device
        self.magnitude = nn.Parameter(torch.empty(linear.out_features, device=device))
        self.row_squares: Tensor
        self.register_buffer("row_squares", torch.empty(linear.out_features, device=device))

    def measure(self, weight: Tensor) -> None:
        """Squared row norms of the weight as it is frozen, some rows at a time: W is large."""
        squares = [rows.square().sum(dim=1) for rows in weight.split(_ROWS)]
        self.row_squares.copy_(torch.cat(squares))

    def remark(self) -> str | None:
        """Rows of zeros have no direction to keep."""
        zeros = int((self.row_squares == 0).sum())
        if not zeros:
            return None
        return (
            f"{zeros} rows of W are zero and have no direction that DoRA could keep: they start at "
            "zero and their magnitude learns nothing; leave the layer out of target_modules if "
            "that matters"
        )

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        tokens = x.reshape(-1, x.shape[-1])
        rows = torch.cat([tokens, self.lora_A.detach().to(x.dtype)])
        y, crossed = linear.base(rows).split([len(tokens), len(self.lora_A)])
        y = self.add_branch(y.view(*x.shape[:-1], -1), x)
        return scale_features(y, (self.gain(crossed.detach().t()) - 1).to(x.dtype))

    def gain(self, crossed: Tensor) -> Tensor:
        """M / n (out_features) in at least fp32, from W Aᵀ (out_features, rank)."""
        wide = at_least_fp32(crossed.dtype)
        a, b = self.lora_A.detach().to(wide), self.lora_B.detach().to(wide)
        squares = self.row_squares.to(wide)
        linear = (crossed.to(wide) * b).sum(dim=1)
        quadratic = ((b @ (a @ a.t())) * b).sum(dim=1)
        return self._over(squares + 2 * self.scaling * linear + self.scaling**2 * quadratic)

    def _over(self, squares: Tensor, rows: slice = slice(None)) -> Tensor:
        """M over the root of these squared norms, of these rows."""
        start, moved = self.row_squares[rows], self.magnitude[rows]
        length = start.to(squares.dtype).sqrt() + moved.to(squares.dtype)
        return length / squares.clamp(min=_SHORTEST**2).sqrt()

    def merge_rows(self, weight: Tensor, rows: slice) -> Tensor:
        """diag(m / n) (W + s · B A) with n of the weight at hand, same dtype."""
        moved = super().merge_rows(weight.to(at_least_fp32(weight.dtype)), rows)
        gain = self._over(moved.detach().square().sum(dim=1), rows)
        return (gain[:, None] * moved).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA with peft's magnitude, which is the whole length m."""
        if (self.row_squares == 0).any():
            raise NoPeftForm("sits on rows of zeros, for which HF peft's DoRA gives NaN")
        length = self.row_squares.double().sqrt() + self.magnitude.double()
        return [
            replace(
                form,
                tensors={**form.tensors, "lora_magnitude_vector": length},
                config={"use_dora": True},
            )
            for form in super().peft_forms(seat)
        ]

    def role(self, parameter: str) -> Role:
        """The magnitude is never decayed."""
        return Role(parameter, decay=parameter != "magnitude")

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + out_features."""
        return super().count(options, linear) + linear.out_features
