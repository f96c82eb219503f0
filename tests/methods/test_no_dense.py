"""No method makes anything as large as W. Oracle: the numbers in every tensor that a step creates.

What the packed linear makes in its own product, forward and backward, does not count: it must be
dense for a moment. Sizes are such that whatever a formula may make, tokens or ranks or blocks by
features, is clearly smaller than W.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.methods import largest_created
from bigpeft.methods import linear_methods
from tests.oracles.dense import nudge, packed, seated

SHAPE = (192, 256)
NUMBERS = SHAPE[0] * SHAPE[1]
SIZES = {
    "rank": 4,
    "block_size": 8,
    "frequencies": 60,
    "directions": 8,
    "candidates": 16,
}
FORMS = [
    ("pissa", {"keep_base": True}),
    ("milora", {"keep_base": False}),
    ("lokr", {"factor": 2}),
    ("boft", {"factors": 3}),
    ("liera", {"block": 16}),
    ("loha", {"rank": 32}),
]
CASES = [(name, {}) for name in sorted(linear_methods())] + FORMS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "chosen"), CASES, ids=str)
def test_a_step_makes_nothing_as_large_as_the_weight(name, chosen, dtype):
    fields = linear_methods()[name].Options.model_fields
    options = {key: value for key, value in SIZES.items() if key in fields} | chosen
    linear, _, method = seated(name, SHAPE, **options)
    nudge(method).to(dtype)
    x = torch.randn(2, 6, SHAPE[1], dtype=dtype, requires_grad=True)

    assert largest_created(method, linear, x) <= NUMBERS / 3


class _DenseBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad @ torch.eye(SHAPE[1])


class _Spoiled(nn.Module):
    """A frozen linear with something done to its input."""

    def __init__(self, spoil=lambda x: x):
        super().__init__()
        self.spoil = spoil

    def forward(self, linear, x):
        return linear.base(self.spoil(x))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x: x + F.linear(x, torch.ones(SHAPE[1], 4) @ torch.ones(4, SHAPE[1])),
        _DenseBackward.apply,
    ],
    ids=["forward", "backward"],
)
def test_the_accounting_sees_a_dense_tensor(spoil):
    linear, _ = packed(SHAPE)
    x = torch.randn(12, SHAPE[1], requires_grad=True)

    assert largest_created(_Spoiled(spoil), linear, x) >= NUMBERS


def test_the_accounting_leaves_the_base_product_out_and_puts_it_back():
    linear, _ = packed(SHAPE)
    x = torch.randn(12, SHAPE[1], requires_grad=True)
    base = linear.base

    assert largest_created(_Spoiled(), linear, x) <= x.numel()
    assert linear.base is base
