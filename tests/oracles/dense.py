"""Oracle: dense algebra. A packed linear, the dense weight it decodes to, and methods on it."""

from typing import Any

import torch
from torch import Tensor, nn

from bigpeft.backbone import PackedLinear
from bigpeft.methods import LinearMethod, linear_methods
from bigpeft.quant import CodecOptions, make_codec


def packed(
    shape: tuple[int, int], weights: str = "nf4", bias: bool = False, name: str = "layer.q_proj"
) -> tuple[PackedLinear, Tensor]:
    """Real 4-bit codes of a random weight (out_features, in_features), and the W they decode to."""
    out_features, in_features = shape
    generator = torch.Generator().manual_seed(hash(shape) % 2**31)
    weight = torch.randn(shape, generator=generator) / in_features**0.5
    codec = make_codec(weights, CodecOptions())
    linear = PackedLinear(name, nn.Linear(in_features, out_features, bias=bias), codec)
    linear.base.packed = nn.Parameter(codec.encode(weight), requires_grad=False)
    return linear, linear.base.dense(torch.float32)


def build(name: str, linear: PackedLinear, weight: Tensor, **options: Any) -> LinearMethod:
    """A method at its start."""
    method = linear_methods()[name]
    built = method(linear, method.Options(**options))  # type: ignore[call-arg]
    torch.manual_seed(1)
    built.reset()
    if method.needs_dense:
        built.start(weight)
    return built


def nudge(method: LinearMethod, size: float = 0.1) -> LinearMethod:
    """Move every parameter off its start: the identity hides every bug."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return method
