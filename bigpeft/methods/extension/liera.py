"""LieRA, an update that multiplies every number of W (Si et al., arXiv 2504.00851; HiRA, 2025).

    W' = W ⊙ (1 + (alpha / rank) · B A)

This is the first-order form of W ⊙ exp(B A), which the authors use; HF peft calls it HiRA and has
no scaling. Trains rank · (in_features + out_features) numbers per linear, starts as the identity,
and the update may have full rank.

The product wants the numbers of W. `base` gives them exactly, `block` columns at a time, from rows
of the identity: in_features more rows in all, in forward and again in backward, so that no more
than one block of W, at most a quarter, is dense at any time.
"""

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, hira


class LieRA(LowRank):
    """An elementwise extension of W by a low-rank product."""

    class Options(LowRankOptions):
        """LoRA's options and the memory to be used."""

        block: PositiveInt = Field(1024, description="columns of W that are dense at a time")

    family = "extension"
    source = "arXiv 2504.00851"
    moves = "each entry of W by a factor of low rank; the update may have full rank"
    when = "rank is the bottleneck and slower steps are acceptable"
    extra = "in_features more rows, in both directions"
    learning_rate = 1e-3
    learning_rate_source = "benchmarks/learn.py"
    mpc_patterns = ""
    hf_peft = "HIRA"

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options)
        self.block = min(options.block, max(1, linear.in_features // 4))

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        a, b = self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        dropped = self.dropped(x)

        def update(x: Tensor, a: Tensor, b: Tensor, start: int) -> Tensor:
            with torch.no_grad():
                rows = x.new_zeros(x.shape[-1], linear.in_features)
                rows.diagonal(start).fill_(1)
                columns = linear.base(rows)
            return x @ (columns * (a.t() @ b.t()))

        y = linear.base(x)
        for start in range(0, linear.in_features, self.block):
            block = slice(start, start + self.block)
            y = y + self.scaling * checkpoint(
                update,
                dropped[..., block],
                a[:, block],
                b,
                start,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return y

    def merge_rows(self, weight: Tensor, rows: slice) -> Tensor:
        """W ⊙ (1 + s · B A), same dtype."""
        wide = at_least_fp32(weight.dtype)
        factor = self.scaling * (self.lora_B[rows].to(wide) @ self.lora_A.to(wide))
        return (weight * (1 + factor)).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """HiRA, which has no scaling, so it goes into B, and one rank: the rest is zeros."""
        a, b = self.linear_factors()
        zeros = max(len(other.lora_A) for other in seat.seats.values()) - len(a)
        a, b = F.pad(a, (0, 0, 0, zeros)), F.pad(self.scaling * b, (0, zeros))
        return [hira(a, b, self.dropout)]
