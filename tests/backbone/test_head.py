"""Oracle: the model's own linear, and what autograd itself says that it keeps."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from bigpeft.backbone.head import OutputHead


def passed(head, x):
    """Result, gradient of the input, and bytes that were kept for backward."""
    x = x.clone().requires_grad_()
    kept = []

    def keep(tensor):
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = head(x)
    y.float().pow(2).sum().backward()
    return y, x.grad, sum(kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_a_frozen_head_is_the_model_s_own_and_keeps_no_weight(dtype, bias):
    own = nn.Linear(48, 200, bias=bias, dtype=dtype).requires_grad_(False)
    x = torch.randn(2, 5, 48, dtype=dtype)

    ours, theirs = passed(OutputHead(own), x), passed(own, x)

    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert ours[2] == theirs[2] - own.weight.nbytes


def test_a_trained_head_has_its_gradient():
    own = nn.Linear(48, 200)
    head = OutputHead(own)

    head(torch.randn(5, 48)).sum().backward()

    assert head.weight is own.weight
    assert own.weight.grad.abs().sum() > 0
    assert torch.equal(own.bias.grad, torch.full((200,), 5.0))
