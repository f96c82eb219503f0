"""Oracle: HF peft. The same numbers in, the same outputs and gradients out."""

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from tests.oracles.dense import build, nudge, packed


class OneLinear(nn.Module):
    """peft wants a model around a layer."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.q_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.q_proj.weight = nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.q_proj(x)


def peft_layer(weight: torch.Tensor, config: peft.PeftConfig) -> nn.Module:
    return peft.get_peft_model(OneLinear(weight), config).base_model.model.q_proj


@pytest.mark.parametrize(("name", "rslora"), [("lora", False), ("rslora", True)])
def test_lora_equals_peft(name, rslora):
    linear, weight = packed((24, 16))
    method = nudge(build(name, linear, weight, rank=4, alpha=10))
    config = peft.LoraConfig(r=4, lora_alpha=10, use_rslora=rslora, target_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    theirs.lora_A.default.weight.data.copy_(method.lora_A)
    theirs.lora_B.default.weight.data.copy_(method.lora_B)
    x = torch.randn(5, 16)

    ours, expected = method(linear, x), theirs(x)
    ours.square().sum().backward()
    expected.square().sum().backward()

    assert_close(ours, expected)
    assert_close(method.lora_A.grad, theirs.lora_A.default.weight.grad)
    assert_close(method.lora_B.grad, theirs.lora_B.default.weight.grad)


@pytest.mark.parametrize("feedforward", [True, False])
def test_ia3_equals_peft_on_layers_without_a_bias(feedforward):
    linear, weight = packed((24, 16), name="layer.q_proj")
    ends = ("q_proj",) if feedforward else ()
    method = nudge(build("ia3", linear, weight, feedforward_modules=ends))
    config = peft.IA3Config(
        target_modules=["q_proj"], feedforward_modules=["q_proj"] if feedforward else []
    )
    theirs = peft_layer(weight, config)
    theirs.ia3_l.default.data.copy_((1 + method.scale).view_as(theirs.ia3_l.default))
    x = torch.randn(5, 16)

    ours, expected = method(linear, x), theirs(x)
    ours.square().sum().backward()
    expected.square().sum().backward()

    assert_close(ours, expected)
    assert_close(method.scale.grad, theirs.ia3_l.default.grad.flatten())


def test_ssl_equals_ia3_of_peft_with_every_layer_a_feedforward_layer():
    linear, weight = packed((24, 16))
    method = nudge(build("ssl", linear, weight))
    config = peft.IA3Config(target_modules=["q_proj"], feedforward_modules=["q_proj"])
    theirs = peft_layer(weight, config)
    theirs.ia3_l.default.data.copy_((1 + method.scale_in).view(1, -1))
    x = torch.randn(5, 16)

    assert_close(method(linear, x), theirs(x))
    assert_close(method(linear, x), F.linear(x * (1 + method.scale_in), weight))
