"""Damaged or foreign model files give one error that names them. Oracle: the damage done."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from bigpeft.backbone import (
    Loader,
    SafetensorsFolder,
    Whole,
    build_skeleton,
    fill_slots,
    freeze_linears,
    read_config,
)
from bigpeft.errors import FileError, RecipeError, WeightError
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import FAMILIES, saved_model
from tests.worlds import world

CPU = torch.device("cpu")


def load(folder: Path) -> None:
    model = build_skeleton(read_config(folder, None, None, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    Loader(SafetensorsFolder(folder), Whole(), CPU, torch.float32, {}).fill(model)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(FileError, match=r"has no config\.json"):
        read_config(tmp_path, None, None, False)


def test_a_configuration_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(FileError, match=r"config\.json: is not JSON"):
        read_config(tmp_path, None, None, False)


def test_a_model_type_that_transformers_does_not_know(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nosuch"}')

    with pytest.raises(RecipeError, match="'nosuch'"):
        read_config(tmp_path, None, None, False)


def test_a_model_that_is_no_language_model():
    config = AutoConfig.for_model("vit", num_hidden_layers=1)

    with pytest.raises(RecipeError, match="causal language model"):
        build_skeleton(config)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(WeightError, match=r"neither model\.safetensors nor"):
        SafetensorsFolder(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    saved_model("llama", tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()

    with pytest.raises(WeightError, match=shard.name):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("left", [0, 5, 1000, -1])
def test_a_truncated_file_is_named(left, tmp_path):
    saved_model("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])

    with pytest.raises(WeightError, match=r"model\.safetensors: is truncated"):
        SafetensorsFolder(tmp_path)


def test_an_index_that_lies_is_caught(tmp_path):
    saved_model("llama", tmp_path, max_shard_size="20KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    names = list(index["weight_map"])
    other = next(f for f in index["weight_map"].values() if f != index["weight_map"][names[0]])
    index["weight_map"][names[0]] = other
    path.write_text(json.dumps(index))

    with pytest.raises(WeightError, match=f"does not hold {names[0]}"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "{}", "{"]
)
def test_an_index_that_is_none_is_named(content, tmp_path):
    saved_model("llama", tmp_path, max_shard_size="20KB")
    (tmp_path / "model.safetensors.index.json").write_text(content)

    with pytest.raises(WeightError, match=r"index\.json: is not a weight index"):
        SafetensorsFolder(tmp_path)


def test_numbers_of_a_kind_that_is_not_read_are_named(tmp_path):
    damaged(tmp_path, WEIGHT, lambda t, name: t.update({name: t[name].to(torch.float8_e4m3fn)}))

    with pytest.raises(WeightError, match=rf"safetensors: holds {WEIGHT} as F8_E4M3"):
        load(tmp_path)


def damaged(folder: Path, name: str, change) -> None:
    saved_model("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors, name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


WEIGHT = "model.layers.1.mlp.up_proj.weight"


def test_a_missing_tensor_is_named(tmp_path):
    damaged(tmp_path, WEIGHT, lambda tensors, name: tensors.pop(name))

    with pytest.raises(WeightError, match=f"{WEIGHT}: is in no weight file"):
        load(tmp_path)


def test_a_shape_that_the_configuration_contradicts_is_named(tmp_path):
    damaged(tmp_path, WEIGHT, lambda t, name: t.update({name: t[name][:5].contiguous()}))

    with pytest.raises(WeightError, match=rf"{WEIGHT}: has shape \(5, 48\) .* \(80, 48\)"):
        load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_named(value, tmp_path):
    damaged(tmp_path, WEIGHT, lambda t, name: t[name].__setitem__((3, 3), value))

    with pytest.raises(WeightError, match=rf"{WEIGHT} of .*model\.safetensors: holds NaN"):
        load(tmp_path)


def error_of_this_rank(folder: Path) -> str:
    try:
        load(folder)
    except WeightError as error:
        return str(error)
    return "loaded"


def test_a_damaged_tensor_of_one_rank_is_the_same_error_on_all(tmp_path):
    damaged(tmp_path, WEIGHT, lambda t, name: t[name].__setitem__((3, 3), float("nan")))

    errors = world(2).call(error_of_this_rank, tmp_path)

    assert errors[0] == errors[1]
    assert WEIGHT in errors[0]


def test_fused_experts_are_refused_with_the_bytes_that_would_stay_dense():
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = AutoConfig.for_model("mixtral", **FAMILIES["mistral"], **experts)

    with pytest.raises(RecipeError, match=r"mixture of experts: .*experts.*GB in 16 bits"):
        build_skeleton(config)


def test_a_decoder_of_convolutions_is_refused_for_what_it_is():
    config = AutoConfig.for_model("mamba", hidden_size=32, num_hidden_layers=2, vocab_size=64)

    with pytest.raises(RecipeError, match=r"no linears: .*conv1d\.weight .* stay dense") as refused:
        build_skeleton(config)

    assert "experts" not in str(refused.value)


def test_tied_weights_are_one_slot(tmp_path):
    saved_model("llama-tied", tmp_path)
    model = build_skeleton(read_config(tmp_path, None, None, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))

    slots = fill_slots(model, SafetensorsFolder(tmp_path).shapes())

    (tied,) = [slot for slot in slots if "model.embed_tokens.weight" in slot.names]
    assert "lm_head.weight" in tied.names
