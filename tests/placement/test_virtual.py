"""Virtual tokens in every family. Oracle: the stock model of transformers, given the same prompt as
embeddings of its own, or the same prefix as a cache.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.testing import assert_close
from transformers import DynamicCache, PreTrainedModel

from bigpeft.backbone import (
    Loader,
    SafetensorsFolder,
    Whole,
    build_skeleton,
    freeze_linears,
    read_config,
)
from bigpeft.methods import InputMethod
from bigpeft.placement import Placement, place, start, starters, trained
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import FAMILIES, saved_model

CPU = torch.device("cpu")
LENGTH, TOKENS = 5, 9
CLOSE = {"atol": 2e-5, "rtol": 1e-5}
METHODS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {},
    "p_tuning": {"encoder": "lstm", "encoder_hidden_size": 6},
    "prefix_tuning": {"projection": True, "encoder_hidden_size": 6},
}
IMPLEMENTATIONS = [
    (family, kind) for family in FAMILIES for kind in ("eager", "sdpa")
    if (family, kind) != ("gemma2", "sdpa")  # transformers does not offer it
]  # fmt: skip


def load(folder: Path, name: str, **options: Any) -> tuple[PreTrainedModel, InputMethod]:
    """The model of a folder in the compute dtype, with virtual tokens, loaded as a run loads it."""
    model = build_skeleton(read_config(folder, None, None, False))
    freeze_linears(model, make_codec("none", CodecOptions()))
    seated = place(model, Placement(name, {"length": LENGTH} | METHODS[name] | options))
    start(seated, 3, CPU, torch.float32)
    source = SafetensorsFolder(folder)
    Loader(source, Whole(), CPU, torch.float32, starters(model, seated)).fill(model)
    return model.eval(), seated["input"]  # type: ignore[return-value]


def stock_with_prompt(stock: PreTrainedModel, prompt: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Logits (batch, tokens, vocabulary) behind a prompt that is multiplied as embeddings are."""
    embedding = stock.get_input_embeddings()
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    scale = embedding(torch.tensor([5])) / embedding.weight[5]  # type: ignore[index]
    prompt = (prompt * scale.mean()).expand(len(ids), -1, -1)
    ones = None if mask is None else torch.cat([mask.new_ones(len(ids), LENGTH), mask], dim=1)
    embeds = torch.cat([prompt, embedding(ids)], dim=1)
    return stock(inputs_embeds=embeds, attention_mask=ones).logits[:, LENGTH:]


def stock_with_prefix(stock: PreTrainedModel, prefix: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Logits behind a cache that holds the prefix (layers, 2, heads, length, head_dim)."""
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    rows = [
        tuple(part.expand(len(ids), -1, -1, -1) for part in layer) for layer in prefix.unbind(0)
    ]
    ones = None if mask is None else torch.cat([mask.new_ones(len(ids), LENGTH), mask], dim=1)
    return stock(input_ids=ids, attention_mask=ones, past_key_values=DynamicCache(rows)).logits


def rows(padded: bool) -> dict[str, Tensor]:
    """Two rows, the second four tokens shorter and padded on the right."""
    torch.manual_seed(4)
    ids, mask = torch.randint(3, 96, (2, TOKENS)), torch.ones(2, TOKENS, dtype=torch.int64)
    if not padded:
        return {"input_ids": ids}
    mask[1, 5:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def real(tensor: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """What belongs to tokens that are no padding."""
    mask = batch.get("attention_mask")
    return tensor.flatten(0, 1) if mask is None else tensor[mask == 1]


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("family", "kind"), IMPLEMENTATIONS, ids=str)
def test_logits_and_gradients_are_those_of_the_stock_model(family, kind, name, padded, tmp_path):
    stock = saved_model(family, tmp_path)
    model, method = load(tmp_path, name)
    for one in (stock, model):
        one.set_attn_implementation(kind)
    batch, wrt = rows(padded), list(method.parameters())
    stocked = stock_with_prefix if name == "prefix_tuning" else stock_with_prompt

    ours, expected = model(**batch).logits, stocked(stock, method(), batch)

    assert ours.shape == (2, TOKENS, 96)
    assert_close(real(ours, batch), real(expected, batch), **CLOSE)
    upstream = torch.randn_like(real(ours, batch))
    theirs = grad(real(expected, batch), wrt, upstream)
    for one, other in zip(grad(real(ours, batch), wrt, upstream), theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert_close(one / scale, other / scale, **CLOSE)
    assert all(g.any() for g in theirs)
    without = stock(**batch).logits
    assert not torch.allclose(real(ours, batch), real(without, batch), atol=1e-4)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_activations_give_the_same_loss_and_gradients(family, name, kind, tmp_path):
    saved_model(family, tmp_path)
    results = []
    for recompute in (False, True):
        model, method = load(tmp_path, name)
        if (family, kind) in IMPLEMENTATIONS:
            model.set_attn_implementation(kind)
        model.train().enable_input_require_grads()
        if recompute:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)  # GPT-2 and OPT have dropout
        loss = model(**rows(padded=True)).logits.square().mean()
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in method.parameters())])

    assert_close(results[1], results[0], atol=0.0, rtol=1e-6)
    assert all(g.any() for g in results[0])


@pytest.mark.parametrize("name", METHODS)
def test_only_the_virtual_tokens_are_trained(name, tmp_path):
    saved_model("llama", tmp_path)
    model, method = load(tmp_path, name)

    model(**rows(padded=True)).logits.square().sum().backward()

    moved = {id(p) for p in model.parameters() if p.grad is not None}
    assert moved == {id(p) for p in method.parameters()}
    names = [item.name for item in trained(model, {"input": method})]
    assert names == [f"input.{key}" for key, _ in method.named_parameters()]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_starts_as_rows_of_the_embedding_of_the_file(family, tmp_path):
    stock = saved_model(family, tmp_path)
    written = stock.get_input_embeddings().weight

    model, method = load(tmp_path, "prompt_tuning")

    assert torch.equal(method.prompt, written[list(method.drawn)])
    assert torch.equal(model.get_input_embeddings().weight, written)
    tied = stock.config.tie_word_embeddings
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("name", METHODS)
def test_some_logits_are_those_of_all(name, tmp_path):
    saved_model("llama", tmp_path)
    model, _ = load(tmp_path, name)
    positions, batch = torch.tensor([1, 4, 7]), rows(padded=True)

    kept = model(**batch, logits_to_keep=positions).logits

    assert_close(kept, model(**batch).logits[:, positions])


def test_every_token_sees_the_prefix_whatever_window_its_layer_has(tmp_path):
    stock = saved_model("mistral", tmp_path)
    model, method = load(tmp_path, "prefix_tuning")
    for one in (stock, model):
        one.config.sliding_window = 3
        one.set_attn_implementation("eager")
    batch = rows(padded=False)
    seen = torch.ones(TOKENS, TOKENS).tril() - torch.ones(TOKENS, TOKENS).tril(-3)
    seen = torch.cat([torch.ones(TOKENS, LENGTH), seen], dim=1)
    mask = torch.zeros(2, 1, TOKENS, TOKENS + LENGTH).masked_fill(seen == 0, -1e9)

    cache = DynamicCache([tuple(p.expand(2, -1, -1, -1) for p in layer) for layer in method()])
    expected = stock(input_ids=batch["input_ids"], attention_mask=mask, past_key_values=cache)

    assert_close(model(**batch).logits, expected.logits, **CLOSE)
    model.config.sliding_window = None
    assert not torch.allclose(model(**batch).logits, expected.logits, atol=1e-3)


def test_virtual_tokens_of_a_prefix_that_are_zero_have_the_same_gradients(tmp_path):
    """So they stay alike, which is what the method's remark says."""
    saved_model("llama", tmp_path)
    gradients = {}
    for init in ("zero", "random"):
        model, method = load(
            tmp_path, "prefix_tuning", projection=False, encoder_hidden_size=512, init=init
        )
        loss = model(**rows(padded=True)).logits.square().sum()
        gradients[init] = grad(loss, method.prefix)[0]

    zero, random = (g - g[..., :1, :] for g in gradients.values())
    assert gradients["zero"].abs().max() > 1e-3
    assert zero.abs().max() < 1e-6 * gradients["zero"].abs().max()
    assert random.abs().max() > 1e-3 * gradients["random"].abs().max()


@pytest.mark.parametrize("recompute", [False, True])
def test_a_second_pass_before_the_backward_pass_does_not_disturb_the_first(recompute, tmp_path):
    saved_model("llama", tmp_path)
    model, method = load(tmp_path, "prefix_tuning")
    model.train().enable_input_require_grads()
    if recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    batch, other = rows(padded=True), rows(padded=False)
    expected = grad(model(**batch).logits.sum(), method.embedding)[0]

    first = model(**batch).logits.sum()
    with torch.no_grad():
        model(**other)

    assert_close(grad(first, method.embedding)[0], expected)
