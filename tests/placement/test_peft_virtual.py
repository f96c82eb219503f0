"""Oracle: HF peft on the stock model. The same numbers in, the same logits and gradients out.

Llama has fewer heads for keys and values than for queries, GPT-2 and OPT have learned positions, of
which OPT takes those that the mask counts.
"""

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.testing import assert_close

from bigpeft.methods import InputMethod
from tests.backbone.families import saved_model
from tests.placement.test_virtual import CLOSE, LENGTH, load, real, rows

FAMILIES = ["llama", "gpt2", "opt"]
Pair = tuple[Tensor, nn.Parameter, Callable[[Tensor], Tensor]]


def same(tensor: Tensor) -> Tensor:
    return tensor


def agree(
    family: str,
    tmp_path: Any,
    config: peft.PeftConfig,
    name: str,
    options: dict[str, Any],
    pairs: Callable[[InputMethod, nn.Module], list[Pair]],
) -> None:
    """Give peft our numbers and compare; a pair is ours, theirs and how ours becomes theirs."""
    stock = saved_model(family, tmp_path)
    model, method = load(tmp_path, name, **options)
    torch.manual_seed(6)
    for parameter in method.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = peft.get_peft_model(stock, config)
    encoder = theirs.prompt_encoder["default"]
    found = pairs(method, encoder)
    with torch.no_grad():
        for one, other, convert in found:
            other.copy_(convert(one))
    assert len(found) == len(list(method.parameters())) == len(list(encoder.parameters()))

    for padded in (False, True):
        batch = rows(padded)
        logits = theirs.eval()(**batch).logits[:, -9:]
        ours, expected = real(model(**batch).logits, batch), real(logits, batch)
        assert_close(ours, expected, **CLOSE)
        upstream = torch.randn_like(ours)
        left = grad(ours, [one for one, _, _ in found], upstream)
        right = grad(expected, [other for _, other, _ in found], upstream)
        for one, other, (_, _, convert) in zip(left, right, found, strict=True):
            scale = max(1.0, other.abs().max().item())
            assert_close(convert(one) / scale, other / scale, **CLOSE)
            assert other.any()


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_tuning_equals_peft(family, tmp_path):
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)

    agree(
        family,
        tmp_path,
        config,
        "prompt_tuning",
        {},
        lambda method, encoder: [(method.prompt, encoder.embedding.weight, same)],
    )


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "mlp", "encoder_hidden_size": 7},
        {"encoder": "lstm", "encoder_hidden_size": 6, "encoder_layers": 1},
        {"encoder": "lstm", "encoder_hidden_size": 6, "encoder_layers": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_p_tuning_equals_peft(family, options, tmp_path):
    config = peft.PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=LENGTH,
        encoder_reparameterization_type=options["encoder"].upper(),
        encoder_hidden_size=options["encoder_hidden_size"],
        encoder_num_layers=options.get("encoder_layers", 2),
        encoder_dropout=0.0,
    )

    def pairs(method: InputMethod, encoder: nn.Module) -> list[Pair]:
        named = {f"{key}.weight" if key == "embedding" else key: p
                 for key, p in method.named_parameters()}  # fmt: skip
        return [(p, encoder.get_parameter(key), same) for key, p in named.items()]

    agree(family, tmp_path, config, "p_tuning", {"encoder_layers": 2} | options, pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_tuning_equals_peft(family, tmp_path):
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=LENGTH)

    def flat(prefix: Tensor) -> Tensor:
        """(layers, 2, heads, length, head_dim) → (length, all the others)."""
        return prefix.permute(3, 0, 1, 2, 4).flatten(1)

    agree(
        family,
        tmp_path,
        config,
        "prefix_tuning",
        {"projection": False, "encoder_hidden_size": 512},
        lambda method, encoder: [(method.prefix, encoder.embedding.weight, flat)],
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_tuning_with_a_projection_equals_peft(family, tmp_path):
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=LENGTH,
        prefix_projection=True,
        encoder_hidden_size=7,
    )

    def pairs(method: InputMethod, encoder: nn.Module) -> list[Pair]:
        inner = [
            (parameter, encoder.transform.get_parameter(key), same)
            for key, parameter in method.transform.named_parameters()
        ]
        return [(method.embedding, encoder.embedding.weight, same), *inner]

    options = {"projection": True, "encoder_hidden_size": 7}
    agree(family, tmp_path, config, "prefix_tuning", options, pairs)
