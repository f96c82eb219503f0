"""The output head: a dense frozen linear whose weight autograd does not hold.

ZeRO-3 frees the gathered head after forward and gathers it for backward, as it does packed weights;
a plain linear keeps the first copy until then, two of the largest parameter there is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class OutputHead(nn.Linear):
    """y = x Wᵀ + b over the parameters of a model's own head, frozen or not."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__(own.in_features, own.out_features, bias=False, device="meta")
        self.weight, self.bias = own.weight, own.bias

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in_features) → (..., out_features)."""
        if self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad):
            return super().forward(input)
        return _HeadProduct.apply(input, self)  # type: ignore[no-any-return]


class _HeadProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, head: OutputHead) -> Tensor:
        ctx.head = head
        return F.linear(x, head.weight, head.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.head.weight, None
