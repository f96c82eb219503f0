"""Weights in every format that is read. Oracles: the stock load, and the codes of bitsandbytes."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from bigpeft.backbone import (
    Loader,
    Verified,
    Whole,
    build_skeleton,
    fill_slots,
    freeze_linears,
    open_folder,
    read_config,
)
from bigpeft.backbone.sources import BitsAndBytesFolder, SafetensorsFolder, TorchBinFolder
from bigpeft.backbone.sources.files import header, read
from bigpeft.errors import WeightError
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import saved_model

CPU = torch.device("cpu")
WEIGHT = "model.layers.1.mlp.up_proj.weight"


def load(folder: Path, weights: str = "nf4", options: CodecOptions = CodecOptions()):  # noqa: B008
    model = build_skeleton(read_config(folder, None, None, False))
    packed, _ = freeze_linears(model, make_codec(weights, options))
    source = open_folder(folder)
    base = Loader(source, Whole(), CPU, torch.float32, {}).fill(model)
    return model.eval(), packed, base, source


def as_bin(folder: Path, out: Path, files: int = 1) -> Path:
    """The same model as older libraries saved it."""
    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    if files == 1:
        torch.save(tensors, out / "pytorch_model.bin")
        return out
    where = {name: f"pytorch_model-{n % files}.bin" for n, name in enumerate(names)}
    for file in set(where.values()):
        torch.save({n: t for n, t in tensors.items() if where[n] == file}, out / file)
    (out / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    return out


@pytest.mark.parametrize("files", [1, 3])
def test_a_bin_model_is_the_safetensors_model(files, tmp_path):
    saved_model("llama", tmp_path / "st")
    ids = torch.randint(3, 96, (2, 9))

    one, _, base, _ = load(tmp_path / "st")
    other, _, same, source = load(as_bin(tmp_path / "st", tmp_path / "bin", files))

    assert isinstance(source, TorchBinFolder)
    assert torch.equal(one(ids).logits, other(ids).logits)
    assert base == same
    assert source.bytes_read == sum(4 * torch.Size(s).numel() for s in source.shapes().values())


class Hostile:
    """What unpickling must never run."""

    def __reduce__(self):
        return (Path.touch, (Path("/tmp/bigpeft-hostile"),))


def test_a_bin_file_that_runs_code_is_refused_and_does_not_run(tmp_path):
    saved_model("llama", tmp_path / "st")
    folder = as_bin(tmp_path / "st", tmp_path / "bin")
    torch.save({WEIGHT: Hostile()}, folder / "pytorch_model.bin")

    with pytest.raises(WeightError, match=r"pytorch_model\.bin: cannot be opened as plain tensors"):
        open_folder(folder)

    assert not Path("/tmp/bigpeft-hostile").exists()


def test_a_truncated_bin_file_is_named(tmp_path):
    saved_model("llama", tmp_path / "st")
    folder = as_bin(tmp_path / "st", tmp_path / "bin")
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(WeightError, match=r"pytorch_model\.bin: cannot be opened"):
        open_folder(folder)


def in_four_bits(folder: Path, out: Path, **options) -> torch.nn.Module:
    """A model that transformers and bitsandbytes packed and saved; loaded again by them."""
    config = BitsAndBytesConfig(load_in_4bit=True, **options)
    load = AutoModelForCausalLM.from_pretrained
    load(folder, quantization_config=config, dtype=torch.float32).save_pretrained(out)
    return load(out, dtype=torch.float32).eval()


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_bitsandbytes_checkpoint_is_taken_bit_for_bit(kind, nested, storage, tmp_path):
    saved_model("llama", tmp_path / "dense")
    in_four_bits(
        tmp_path / "dense",
        tmp_path / "packed",
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=nested,
        bnb_4bit_quant_storage=storage,
    )

    ours, linears, _, _ = load(tmp_path / "dense", kind, CodecOptions(nested=nested))
    theirs, same, _, source = load(tmp_path / "packed", kind, CodecOptions(nested=nested))

    assert isinstance(source, BitsAndBytesFolder)
    for one, other in zip(linears, same, strict=True):
        assert torch.equal(one.base.packed, other.base.packed), one.name
    ids = torch.randint(3, 96, (2, 9))
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_a_bitsandbytes_model_has_the_logits_of_its_stock_load(tmp_path):
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    saved_model("llama", tmp_path / "dense", **wide)
    stock = in_four_bits(tmp_path / "dense", tmp_path / "packed", bnb_4bit_quant_type="nf4")
    ids = torch.randint(3, 96, (2, 9))

    model, _, _, _ = load(tmp_path / "packed", "nf4", CodecOptions(nested=False))

    assert_close(model(ids).logits, stock(ids).logits, atol=2e-5, rtol=1e-5)


@pytest.fixture
def packed_by_others(tmp_path):
    saved_model("llama", tmp_path / "dense")
    in_four_bits(
        tmp_path / "dense",
        tmp_path / "packed",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
    )
    return tmp_path / "packed"


def test_another_codec_than_the_checkpoints_is_refused_with_what_to_write(packed_by_others):
    with pytest.raises(WeightError, match=r"write model\.weights=nf4 .* model\.nested=true"):
        open_folder(packed_by_others).check_codec(make_codec("fp4", CodecOptions()))
    with pytest.raises(WeightError, match="nested true"):
        load(packed_by_others, "nf4", CodecOptions(nested=False))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (f"{WEIGHT}.nested_absmax", torch.tensor([float("nan")]), "NaN or infinite"),
        (f"{WEIGHT}.absmax", torch.zeros(3, dtype=torch.uint8), "3 bytes in a section of"),
        (f"{WEIGHT}.nested_quant_map", torch.zeros(256), "is not the table of bitsandbytes"),
        (f"{WEIGHT}.quant_map", torch.zeros(16), "is not the table of bitsandbytes"),
        (f"{WEIGHT}.absmax", None, r"absmax: is in no weight file"),
        (
            f"{WEIGHT}.quant_state.bitsandbytes__nf4",
            torch.tensor(list(b"{}"), dtype=torch.uint8),
            "is no state of bitsandbytes",
        ),
    ],
)
def test_damaged_statistics_are_named(key, value, message, packed_by_others):
    path = packed_by_others / "model.safetensors"
    tensors = load_file(path)
    if value is None:
        del tensors[key]
    else:
        tensors[key] = value
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(WeightError, match=message) as refused:
        load(packed_by_others)

    assert WEIGHT in str(refused.value)


def test_a_model_that_another_tool_quantised_is_refused(tmp_path):
    saved_model("llama", tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))

    with pytest.raises(WeightError, match="is quantised by gptq"):
        open_folder(tmp_path)


def test_an_index_that_points_out_of_its_folder_is_refused(tmp_path):
    saved_model("llama", tmp_path / "model", max_shard_size="20KB")
    path = tmp_path / "model/model.safetensors.index.json"
    index = json.loads(path.read_text())
    name = next(iter(index["weight_map"]))
    index["weight_map"][name] = "../elsewhere.safetensors"
    path.write_text(json.dumps(index))

    with pytest.raises(WeightError, match="points out of its folder"):
        open_folder(tmp_path / "model")


def test_weights_of_another_base_are_refused_at_the_first_that_differs(tmp_path):
    saved_model("llama", tmp_path)
    _, _, base, _ = load(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors[WEIGHT][3, 3] += 1
    save_file(tensors, path, metadata={"format": "pt"})

    source = Verified(SafetensorsFolder(tmp_path), base, "the adapter")
    for name in tensors.keys() - {WEIGHT}:
        assert torch.equal(source.read(name), tensors[name])
    with pytest.raises(WeightError, match=rf"base {base.short}.*the hash of {WEIGHT}"):
        source.read(WEIGHT)


def test_a_base_of_another_structure_is_refused_before_it_is_read(tmp_path):
    saved_model("llama", tmp_path / "one")
    saved_model("llama", tmp_path / "other", num_hidden_layers=1)
    _, _, base, _ = load(tmp_path / "one")
    source = SafetensorsFolder(tmp_path / "other")

    with pytest.raises(WeightError, match=r"model\.layers\.1\S+ is float32 .* missing here"):
        Verified(source, base, "the adapter")

    assert source.bytes_read == 0


def test_fingerprints_say_what_differs(tmp_path):
    saved_model("llama", tmp_path / "one")
    saved_model("llama", tmp_path / "theta", rope_theta=5.0)
    _, _, one, _ = load(tmp_path / "one")
    _, _, other, _ = load(tmp_path / "theta")

    assert one.difference(one) is None
    assert "rope" in one.difference(other)
    assert one.short != other.short
    assert type(one).from_json(json.loads(json.dumps(one.as_json()))) == one


def test_fewer_layers_are_another_base_only_in_what_is_used(tmp_path):
    saved_model("llama", tmp_path)
    model = build_skeleton(read_config(tmp_path, None, 1, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    source = open_folder(tmp_path)

    base = Loader(source, Whole(), CPU, torch.float32, {}).fill(model)

    slots = fill_slots(model, source.shapes())
    assert base.tensors.keys() == {slot.key for slot in slots}


def test_a_conv1d_that_bitsandbytes_packed_is_refused_for_what_it_is(tmp_path):
    saved_model("gpt2", tmp_path / "dense")
    in_four_bits(tmp_path / "dense", tmp_path / "packed", bnb_4bit_quant_type="nf4")

    with pytest.raises(WeightError, match="as bitsandbytes keeps a Conv1D"):
        load(tmp_path / "packed", "nf4", CodecOptions(nested=False))


@given(
    tensors=st.lists(
        st.tuples(
            st.sampled_from(["float32", "bfloat16", "float16", "uint8", "int64", "bool"]),
            st.lists(st.integers(0, 5), max_size=3),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_mapped_tensors_are_what_safetensors_reads(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("mapped") / "some.safetensors"
    wanted = {
        f"t{n}": torch.randint(0, 100, shape).to(getattr(torch, kind))
        for n, (kind, shape) in enumerate(tensors)
    }
    save_file(wanted, path)

    found = {name: read(stored, name) for name, stored in header(path).items()}

    assert found.keys() == wanted.keys()
    for name, tensor in load_file(path).items():
        assert_close(found[name], tensor, rtol=0, atol=0)
