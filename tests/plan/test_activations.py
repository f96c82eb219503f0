"""What the plan says autograd keeps. Oracle: what it keeps of the real model on the CPU."""

import pytest
import torch

from bigpeft.placement import Placement, place
from bigpeft.plan.activations import activation_bytes, counted
from tests.backbone.families import FAMILIES, saved_model
from tests.backbone.test_logits import load

ROWS, LENGTH = 3, 40


def kept_by_the_model(folder, wanted, dtype):
    model, _ = load(folder, "nf4")
    seated = place(model, wanted)
    for method in seated.values():
        method.to_empty(device="cpu")
        for held in (*method.parameters(), *method.buffers()):
            held.data.normal_(std=0.02)  # what memory held before is no start of an adapter
    model.to(dtype).train()
    model.enable_input_require_grads()
    for module in model.modules():
        if hasattr(module, "attn_dropout"):
            module.attn_dropout.p = 0.0  # with it a CPU's attention keeps all probabilities
    ids = torch.randint(3, 96, (ROWS, LENGTH))
    with counted(model) as saved:
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    del hidden
    return saved.total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "method"),
    [
        *((family, "lora") for family in FAMILIES if family != "gemma2"),
        *(("llama", method) for method in ("dora", "ia3", "ssb", "oft", "adalora", "bitfit")),
    ],
)
def test_it_is_what_the_real_model_keeps(family, method, dtype, tmp_path):
    model = saved_model(family, tmp_path)
    wanted = Placement(method, {"block_size": 16} if method == "oft" else {})

    found = activation_bytes(model.config, wanted, dtype, ROWS, LENGTH, LENGTH)

    kept = kept_by_the_model(tmp_path, wanted, dtype)
    assert found.kept(2, recomputing=False) == pytest.approx(kept, rel=0.02)
