"""Oracle: dense algebra. A packed linear, the dense weight it decodes to, and methods on it."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from bigpeft.backbone import PackedLinear
from bigpeft.methods import LinearMethod, linear_methods
from bigpeft.quant import CodecOptions, make_codec


def random_weight(shape: tuple[int, int], zero_rows: int = 0) -> Tensor:
    """W (out_features, in_features) whose products have about the size of their input."""
    generator = torch.Generator().manual_seed(hash(shape) % 2**31)
    weight = torch.randn(shape, generator=generator) / shape[1] ** 0.5
    weight[:zero_rows] = 0
    return weight


def frozen_linear(
    shape: tuple[int, int], weights: str = "nf4", bias: bool = False, name: str = "layer.q_proj"
) -> PackedLinear:
    """A packed linear whose bytes are still on the meta device."""
    out_features, in_features = shape
    codec = make_codec(weights, CodecOptions())
    return PackedLinear(name, nn.Linear(in_features, out_features, bias=bias), codec)


def packed(
    shape: tuple[int, int],
    weights: str = "nf4",
    bias: bool = False,
    name: str = "layer.q_proj",
    weight: Tensor | None = None,
) -> tuple[PackedLinear, Tensor]:
    """Real 4-bit codes of a random weight (out_features, in_features), and the W they decode to."""
    linear = frozen_linear(shape, weights, bias, name)
    if weight is not None:
        return linear, freeze(linear, weight)
    codes, decoded = _random_codes(shape, weights)
    linear.base.packed = nn.Parameter(codes.clone(), requires_grad=False)
    return linear, decoded.clone()


@cache
def _random_codes(shape: tuple[int, int], weights: str) -> tuple[Tensor, Tensor]:
    linear = frozen_linear(shape, weights)
    decoded = freeze(linear, random_weight(shape))
    return linear.base.packed.data, decoded


def freeze(linear: PackedLinear, weight: Tensor) -> Tensor:
    """Put W into the linear. Returns what its codes decode to."""
    linear.base.packed = nn.Parameter(linear.base.codec.encode(weight), requires_grad=False)
    return linear.base.dense(torch.float32)


def build(name: str, linear: PackedLinear, weight: Tensor, **options: Any) -> LinearMethod:
    """A method at its start. One that needs the dense W starts from `weight`, as in the loader."""
    method = linear_methods()[name]
    built = method(linear, method.Options(**options))  # type: ignore[call-arg]
    torch.manual_seed(1)
    built.reset()
    if method.needs_dense:
        frozen = built.start(weight)
        built.measure(weight if frozen is weight else freeze(linear, frozen))
    return built


def seated(
    name: str,
    shape: tuple[int, int],
    layer: str = "layer.q_proj",
    weight: Tensor | None = None,
    **options: Any,
) -> tuple[PackedLinear, Tensor, LinearMethod]:
    """A packed linear, the dense W that its codes decode to, and a method at its start there."""
    linear, decoded = packed(shape, name=layer, weight=weight)
    method = build(name, linear, decoded, **options)
    return linear, linear.base.dense(torch.float32), method


def nudge(method: LinearMethod, size: float = 0.1) -> LinearMethod:
    """Move every parameter off its start: the identity hides every bug."""
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return method
