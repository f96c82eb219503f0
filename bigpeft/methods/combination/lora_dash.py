"""LoRA-Dash, LoRA and then a push along the directions that it has found (Si et al., 2409.01035).

    until switch_step:  W' = W + (alpha / rank) · B A
    from then on:       W' = W + (alpha / rank) · B A + U_d diag(dash) V_dᵀ

U, σ, V are the largest singular triplets of the dense W. After step `switch_step` the d directions
with the largest |u_jᵀ (s B A) v_j| / σ_j are chosen, once, among the `candidates` largest σ: the
paper looks at all of them, where division by a tiny σ picks noise. Until then the dash is closed by
a factor zero. Steps are those of the optimizer; the authors' code counts forward passes. All ranks
choose alike from equal A and B, and the choice is part of the method's state.

Trains rank · (in_features + out_features) + directions numbers per linear and starts as the
identity. The dash is not scaled by s.
"""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from bigpeft.methods.algebra import at_least_fp32
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.low_rank import LowRank, LowRankOptions
from bigpeft.methods.operator import FrozenLinear
from bigpeft.methods.peft_form import PeftForm, PeftSeat, lora
from bigpeft.methods.spectral import SvdOptions, fill_triplets, hold_triplets
from bigpeft.methods.step import Step


class LoRADash(LowRank):
    """Low-rank extension, then trained singular values along its strongest directions."""

    class Options(LowRankOptions, SvdOptions):
        """LoRA's options, when the directions are chosen, and among which."""

        switch_step: PositiveInt = Field(100, description="optimizer step after which to choose")
        directions: PositiveInt = Field(8, description="how many; a smaller W has fewer")
        candidates: PositiveInt = Field(256, description="largest singular values to choose among")

    family = "combination"
    source = "arXiv 2409.01035"
    moves = "as lora, then singular values along the directions that it has pushed most"
    when = "small ranks, and runs long enough for the switch"
    needs_dense = True
    mpc_patterns = "od"
    hf_peft = "LORA of rank rank + directions"
    evolving: ClassVar[tuple[str, ...]] = ("chosen", "opened")

    def __init__(self, linear: FrozenLinear, options: Options) -> None:
        super().__init__(linear, options)
        self.switch_step, self.iterations = options.switch_step, options.iterations
        smaller, device = min(linear.in_features, linear.out_features), linear.device
        candidates = min(options.candidates, smaller)
        self.dash = nn.Parameter(torch.empty(_directions(options, linear), device=device))
        self.left: Tensor
        self.values: Tensor
        self.right: Tensor
        self.chosen: Tensor
        self.opened: Tensor
        hold_triplets(self, linear, candidates)
        chosen = torch.empty(len(self.dash), dtype=torch.long, device=device)
        self.register_buffer("chosen", chosen)
        self.register_buffer("opened", torch.empty(1, device=device))

    def start(self, weight: Tensor) -> Tensor:
        """Factor dense W; W itself is frozen."""
        fill_triplets(self, weight, self.iterations)
        return weight

    @classmethod
    def after_step(cls, seats: Sequence[Self], step: Step) -> None:
        """Choose the directions once."""
        for seat in seats:
            if step.number == seat.switch_step:
                seat.choose()

    @torch.no_grad()
    def choose(self) -> None:
        """Choose the directions by the present A and B, and open the dash."""
        left = self.left.t() @ self.lora_B.to(self.left.dtype)
        right = self.right @ self.lora_A.to(self.right.dtype).t()
        change = self.scaling * (left * right).sum(dim=1)
        tiny = torch.finfo(change.dtype).tiny
        strength = change.abs() / self.values.clamp(min=tiny)
        self.chosen.copy_(strength.topk(len(self.chosen)).indices)
        self.opened.fill_(1)

    def forward(self, linear: FrozenLinear, x: Tensor) -> Tensor:
        """x (..., in_features) → (..., out_features) in x.dtype, bias not included."""
        dash = (self.opened * self.dash).to(x.dtype)
        along = F.linear(x, self.right[self.chosen].to(x.dtype)) * dash
        pushed = F.linear(along, self.left[:, self.chosen].to(x.dtype))
        return self.add_branch(linear.base(x), x) + pushed

    def merge_rows(self, weight: Tensor, rows: slice) -> Tensor:
        """W + s · B A + U_d diag(dash) V_dᵀ, same dtype."""
        wide = at_least_fp32(weight.dtype)
        left = self.left[rows][:, self.chosen].to(wide) * (self.opened * self.dash).to(wide)
        dashed = left @ self.right[self.chosen].to(wide)
        return super().merge_rows(dashed.add_(weight), rows).to(weight.dtype)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """LoRA with the chosen directions as rows and columns more, s in B."""
        a, b = self.linear_factors()
        dash = self.left[:, self.chosen].double() * (self.opened * self.dash).double()
        whole_a = torch.cat([a, self.right[self.chosen].double()])
        return [lora(whole_a, torch.cat([self.scaling * b, dash], dim=1), dropout=self.dropout)]

    def role(self, parameter: str) -> Role:
        """The dash moves singular values: no decay."""
        return Role(parameter, decay=parameter != "dash")

    @classmethod
    def count(cls, options: MethodOptions, linear: FrozenLinear) -> int:
        """rank · (in_features + out_features) + directions."""
        assert isinstance(options, LoRADash.Options)
        return super().count(options, linear) + _directions(options, linear)


def _directions(options: LoRADash.Options, linear: FrozenLinear) -> int:
    smaller = min(linear.in_features, linear.out_features)
    return min(options.directions, options.candidates, smaller)
