"""Oracle: the stock model in one process, holding what the packed weights decode to."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from bigpeft.backbone import (
    Loader,
    PackedLinear,
    SafetensorsFolder,
    Whole,
    build_skeleton,
    freeze_linears,
    read_config,
)
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import FAMILIES, saved_model

CPU = torch.device("cpu")


def load(folder: Path, weights: str, layers: int | None = None):
    model = build_skeleton(read_config(folder, None, layers, False))
    packed, _ = freeze_linears(model, make_codec(weights, CodecOptions()))
    Loader(SafetensorsFolder(folder), Whole(), CPU, torch.float32, {}).fill(model)
    return model.eval(), packed


def decode_into(stock: torch.nn.Module, packed: list[PackedLinear]) -> None:
    for linear in packed:
        dense = linear.base.dense(torch.float32)
        weight = stock.get_submodule(linear.name).weight
        weight.data.copy_(dense.t() if linear.transposed else dense)


@pytest.mark.parametrize("weights", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_a_stock_load(family, weights, tmp_path):
    stock = saved_model(family, tmp_path)
    ids = torch.randint(3, 96, (2, 17))

    model, packed = load(tmp_path, weights)
    decode_into(stock, packed)

    assert len(packed) >= 8
    assert_close(model(ids).logits, stock(ids).logits, atol=2e-5, rtol=1e-5)


def test_a_model_in_several_files_loads_like_one(tmp_path):
    saved_model("llama", tmp_path / "one")
    saved_model("llama", tmp_path / "many", max_shard_size="20KB")
    ids = torch.randint(3, 96, (1, 9))

    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = load(tmp_path / "one", "nf4")[0], load(tmp_path / "many", "nf4")[0]
    assert torch.equal(one(ids).logits, many(ids).logits)


def test_every_byte_of_the_files_is_read_once(tmp_path):
    stock = saved_model("llama", tmp_path)
    source = SafetensorsFolder(tmp_path)
    model = build_skeleton(read_config(tmp_path, None, None, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))

    Loader(source, Whole(), CPU, torch.float32, {}).fill(model)

    assert source.bytes_read == sum(p.nbytes for p in stock.parameters())


def test_fewer_layers_are_the_first_layers(tmp_path):
    stock = saved_model("llama", tmp_path)
    stock.model.layers = stock.model.layers[:1]
    ids = torch.randint(3, 96, (2, 7))

    model, packed = load(tmp_path, "none", layers=1)

    assert len(packed) == 7
    assert_close(model(ids).logits, stock(ids, use_cache=False).logits)
