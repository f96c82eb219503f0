"""The packed weight: every byte of a frozen weight is one flat uint8 parameter.

Autograd must not hold the gathered bytes from forward to backward, or ZeRO-3 saves nothing at the
peak. The product therefore keeps a reference to the module and reads the weight again in backward,
where ZeRO-3 has gathered it a second time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bigpeft.quant import Codec


class PackedWeight(nn.Module):
    """A frozen W (out_features, in_features) as bytes, and its product.

    Kept on the meta device until the loader fills `packed`, uint8 (codec.nbytes(shape),). `around`
    is entered for each product, forward or backward.
    """

    def __init__(self, codec: Codec, shape: tuple[int, int]) -> None:
        super().__init__()
        self.codec = codec
        self.shape = shape
        nbytes = codec.nbytes(shape)
        empty = torch.empty(nbytes, dtype=torch.uint8, device="meta")
        self.packed = nn.Parameter(empty, requires_grad=False)
        self.on_read: Callable[[], None] | None = None
        self.around: AbstractContextManager[object] = nullcontext()

    def dense(self, dtype: torch.dtype) -> Tensor:
        """W in this dtype, made anew at each call from the gathered bytes."""
        if self.on_read is not None:
            self.on_read()
        return self.codec.decode(self.packed.data, self.shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) → x Wᵀ (..., out_features) in x.dtype."""
        return _PackedProduct.apply(x, self)  # type: ignore[no-any-return]


class _PackedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: PackedWeight) -> Tensor:
        ctx.weight = weight
        with weight.around:
            return x @ weight.dense(x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        with ctx.weight.around:
            return grad @ ctx.weight.dense(grad.dtype), None
