"""Weights that no file holds. Oracles: a draw in fp32, and the kernel's peak of resident memory."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from bigpeft.backbone import Loader, RandomWeights, ZeroThree, build_skeleton, freeze_linears
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.test_loading_memory import ZERO, status
from tests.worlds import world

ENDS = {
    "vocab_size": 65536,
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}


def skeleton(dtype, **shape):
    config = AutoConfig.for_model("llama", **ENDS | shape)
    config.dtype = dtype
    model = build_skeleton(config)
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_of_the_configuration_s_dtype_and_rounded_from_the_same_draw(dtype):
    wide, narrow = (
        RandomWeights(skeleton(kind, vocab_size=96), 0.02, 7) for kind in (torch.float32, dtype)
    )

    assert narrow.shapes() == wide.shapes()
    for name in narrow.shapes():
        assert narrow.dtype(name) == dtype
        assert torch.equal(narrow.read(name), wide.read(name).to(dtype))


def test_they_are_normal_and_of_the_deviation_that_was_asked_for():
    drawn = RandomWeights(skeleton(None, vocab_size=20000), 0.02, 7).read("lm_head.weight")

    assert drawn.dtype == torch.float32
    assert drawn.std().item() == pytest.approx(0.02, rel=1e-3)
    assert abs(drawn.mean().item()) < 1e-5
    assert drawn[::1000].unique().numel() > 0.999 * drawn[::1000].numel()  # no piece comes twice


def load_on_this_rank() -> int:
    model = skeleton(torch.bfloat16)
    source = RandomWeights(model, 0.02, 0)
    loader = Loader(source, ZeroThree(ZERO, None), torch.device("cpu"), torch.bfloat16, {})
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    loader.fill(model)
    return status("VmHWM") - before


def test_a_rank_has_its_own_end_of_the_model_the_other_s_and_half_of_one_while_loading():
    end = 2 * ENDS["vocab_size"] * ENDS["hidden_size"]
    world(2).call(load_on_this_rank)  # libraries grow at their first use

    grown = world(2).call(load_on_this_rank)

    assert max(grown) < 2.75 * end
