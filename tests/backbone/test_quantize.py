"""Packed checkpoints and the cache of them. Oracle: the same model loaded from its dense files."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bigpeft.backbone import (
    Loader,
    Whole,
    build_skeleton,
    fill_slots,
    freeze_linears,
    identify,
    open_folder,
    quantize,
    read_config,
    through_cache,
)
from bigpeft.backbone.sources import PackedFolder
from bigpeft.backbone.sources.packed import MANIFEST
from bigpeft.cli import app
from bigpeft.errors import FileError, RecipeError, WeightError
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import saved_model
from tests.interruption import Interrupted, half_way
from tests.worlds import processes

CPU = torch.device("cpu")
NF4 = make_codec("nf4", CodecOptions())
WEIGHT = "model.layers.1.mlp.up_proj.weight"


def skeleton(folder: Path, codec=NF4):
    model = build_skeleton(read_config(folder, None, None, False))
    freeze_linears(model, codec)
    return model


def pack(folder: Path, out: Path, codec=NF4, **more):
    return quantize(skeleton(folder, codec), open_folder(folder), folder, out, **more)


def load(folder: Path, codec=NF4, source=None):
    model = skeleton(folder, codec)
    source = source or open_folder(folder)
    base = Loader(source, Whole(), CPU, torch.float32, {}).fill(model)
    return model.eval(), base, source


@pytest.mark.parametrize("form", ["dense", "packed", "cached"])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "phi3"])
def test_a_model_is_identified_without_being_filled(family, form, tmp_path):
    saved_model(family, tmp_path / "dense")
    expected = load(tmp_path / "dense")[1]
    pack(tmp_path / "dense", tmp_path / "packed")
    model = skeleton(tmp_path / "dense")
    source = open_folder(tmp_path / ("packed" if form == "packed" else "dense"))
    if form == "cached":
        source = through_cache(model, source, tmp_path / "dense", tmp_path / "cache", NF4, print)

    found = identify(model, source)

    assert found == expected
    assert all(parameter.device.type == "meta" for parameter in model.parameters())


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "phi3"])
def test_the_packed_copy_is_the_model_and_has_its_fingerprint(family, nested, tmp_path):
    saved_model(family, tmp_path / "dense")
    codec = make_codec("nf4", CodecOptions(nested=nested))
    ids = torch.randint(3, 96, (2, 9))

    pack(tmp_path / "dense", tmp_path / "packed", codec, shard_bytes=20_000)
    dense, base, read = load(tmp_path / "dense", codec)
    packed, same, source = load(tmp_path / "packed", codec)

    assert isinstance(source, PackedFolder)
    assert torch.equal(dense(ids).logits, packed(ids).logits)
    assert base == same
    assert len(list((tmp_path / "packed").glob("*.safetensors"))) > 1
    assert source.bytes_read < 0.6 * read.bytes_read


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_starts_from_dense_weights_gets_what_the_codes_decode_to(family, tmp_path):
    saved_model(family, tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    model = load(tmp_path / "packed")[0]
    source = open_folder(tmp_path / "packed")

    slots = [slot for slot in fill_slots(model, source.shapes()) if slot.linear]
    for slot in slots:
        image = slot.linear.base.dense(torch.float32)
        assert torch.equal(source.read(slot.key), image.t() if slot.linear.transposed else image)
    assert len(slots) >= 8


def test_a_packed_copy_of_a_bitsandbytes_checkpoint_keeps_its_bytes(tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    saved_model("llama", tmp_path / "dense")
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    stock = AutoModelForCausalLM.from_pretrained(
        tmp_path / "dense", quantization_config=config, dtype=torch.float32
    )
    stock.save_pretrained(tmp_path / "theirs")

    pack(tmp_path / "theirs", tmp_path / "packed")

    ids = torch.randint(3, 96, (2, 9))
    found = load(tmp_path / "packed")[0](ids).logits
    assert torch.equal(found, load(tmp_path / "theirs")[0](ids).logits)
    assert "quantization_config" not in json.loads((tmp_path / "packed/config.json").read_text())


def test_an_interrupted_command_goes_on_and_ends_alike(tmp_path):
    saved_model("llama", tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "whole", shard_bytes=20_000)
    with pytest.raises(Interrupted):
        pack(tmp_path / "dense", tmp_path / "again", shard_bytes=20_000, progress=half_way)
    assert not (tmp_path / "again").exists()
    part = tmp_path / "again.part"
    kept = {path.name: path.stat().st_mtime_ns for path in part.glob("*.safetensors")}
    pack(tmp_path / "dense", tmp_path / "again", shard_bytes=20_000)

    assert kept
    assert not part.exists()
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    for name, written in kept.items():
        assert (tmp_path / "again" / name).stat().st_mtime_ns == written


def test_what_was_packed_from_other_files_is_not_gone_on_with(tmp_path):
    saved_model("llama", tmp_path / "dense")
    with pytest.raises(Interrupted):
        pack(tmp_path / "dense", tmp_path / "out", shard_bytes=20_000, progress=half_way)
    saved_model("llama", tmp_path / "dense", initializer_range=0.3)
    pack(tmp_path / "dense", tmp_path / "out", shard_bytes=20_000)

    ids = torch.randint(3, 96, (2, 9))
    found = load(tmp_path / "out")[0](ids).logits
    assert torch.equal(found, load(tmp_path / "dense")[0](ids).logits)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    saved_model("llama", folder / "dense")
    pack(folder / "dense", folder / "packed", shard_bytes=20_000)
    return folder


@pytest.fixture
def packed(original, tmp_path):
    import shutil

    return Path(shutil.copytree(original / "packed", tmp_path / "packed"))


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_bit_is_found_wherever_it_is(seed, packed):
    shard = sorted(packed.glob("*.safetensors"))[seed % 3]
    content = bytearray(shard.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    start = 8 + int.from_bytes(content[:8], "little")
    place = start + int(torch.randint(len(content) - start, (1,), generator=generator))
    content[place] ^= 1 << seed
    shard.write_bytes(content)

    with pytest.raises(WeightError, match=rf"{shard.name}: is damaged: the hash of"):
        load(packed)
    checked = CliRunner().invoke(app, ["verify", str(packed)])
    assert checked.exit_code == 2
    assert shard.name in checked.output


def test_an_intact_copy_verifies(packed):
    checked = CliRunner().invoke(app, ["verify", str(packed)])

    assert checked.exit_code == 0
    assert "whole" in checked.output


@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_truncated_file_is_named(left, packed):
    shard = sorted(packed.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:left])

    with pytest.raises(WeightError, match=rf"{shard.name}: has \d+ bytes, \d+ were written"):
        open_folder(packed)


def test_a_missing_file_is_named(packed):
    shard = sorted(packed.glob("*.safetensors"))[1]
    shard.unlink()

    with pytest.raises(WeightError, match=rf"{shard.name}: is missing"):
        open_folder(packed)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "is of format version 2, this bigpeft reads 1"),
        ("codec_version", 7, "is of nf4 version 7, this bigpeft reads 1"),
        ("codec", "nf3", "is of nf3 version 1"),
        ("version", "x", "is no manifest"),
        ("source", {}, "is no manifest"),
        ("surplus", 1, "is no manifest"),
    ],
)
def test_a_manifest_that_is_damaged_or_from_the_future_is_refused(key, value, message, packed):
    path = packed / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    with pytest.raises(WeightError, match=message):
        open_folder(packed)


def test_another_codec_is_refused_with_what_to_write(packed):
    with pytest.raises(WeightError, match=r"write model\.weights=nf4 model\.block=64"):
        load(packed, make_codec("nf4", CodecOptions(block=128)))


def test_a_number_that_is_not_finite_is_named_and_nothing_is_left(tmp_path):
    saved_model("llama", tmp_path / "dense")
    path = tmp_path / "dense/model.safetensors"
    tensors = load_file(path)
    tensors[WEIGHT][3, 3] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(WeightError, match=rf"{WEIGHT} of .*model\.safetensors: holds NaN"):
        pack(tmp_path / "dense", tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def test_a_disk_that_fills_in_the_middle_leaves_nothing_under_the_name(tmp_path):
    saved_model("llama", tmp_path / "dense")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(FileError, match=r"model\.safetensors: cannot be written"):
            pack(tmp_path / "dense", tmp_path / "packed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not (tmp_path / "packed").exists()
    assert not list(tmp_path.rglob("model.safetensors.part"))


def test_the_command_says_what_a_recipe_needs(tmp_path):
    saved_model("llama", tmp_path / "dense")
    arguments = [str(tmp_path / "dense"), str(tmp_path / "packed"), "--weights", "fp4"]

    said = CliRunner().invoke(app, ["quantize", *arguments, "--no-nested"])
    again = CliRunner().invoke(app, ["quantize", *arguments])

    assert said.exit_code == 0, said.output
    assert "14 linears packed as fp4" in said.output
    assert "weights: fp4, block: 64, nested: false}" in said.output
    assert isinstance(again.exception, FileError)


@pytest.mark.parametrize(("option", "value"), [("--block", "65"), ("--weights", "none")])
def test_the_command_refuses_what_no_recipe_may_have(option, value, tmp_path):
    saved_model("llama", tmp_path / "dense")
    arguments = [str(tmp_path / "dense"), str(tmp_path / "packed"), option, value]

    refused = CliRunner().invoke(app, ["quantize", *arguments])

    assert isinstance(refused.exception, RecipeError)
    assert option in str(refused.exception)


def cached(folder: Path, cache: Path, say=lambda text: None):
    return through_cache(skeleton(folder), open_folder(folder), folder, cache, NF4, say)


def test_the_first_use_of_a_cache_packs_and_the_second_reads_packed_bytes(tmp_path):
    saved_model("llama", tmp_path / "dense")
    ids = torch.randint(3, 96, (2, 9))
    said: list[str] = []
    dense, base, plain = load(tmp_path / "dense")

    load(tmp_path / "dense", source=cached(tmp_path / "dense", tmp_path / "cache", said.append))
    second = cached(tmp_path / "dense", tmp_path / "cache", said.append)
    model, same, _ = load(tmp_path / "dense", source=second)

    assert len(said) == 1
    assert torch.equal(model(ids).logits, dense(ids).logits)
    assert base == same
    assert second.bytes_read < 0.6 * plain.bytes_read
    assert torch.equal(second.read(WEIGHT), plain.read(WEIGHT))  # not what its codes decode to


def test_another_model_in_the_same_place_is_packed_anew(tmp_path):
    saved_model("llama", tmp_path / "dense")
    cached(tmp_path / "dense", tmp_path / "cache")
    saved_model("llama", tmp_path / "dense", initializer_range=0.3)
    ids = torch.randint(3, 96, (2, 9))

    model, _, _ = load(tmp_path / "dense", source=cached(tmp_path / "dense", tmp_path / "cache"))

    assert torch.equal(model(ids).logits, load(tmp_path / "dense")[0](ids).logits)
    assert len([p for p in (tmp_path / "cache").iterdir() if p.is_dir()]) == 2


def race(folder: Path, cache: Path, queue) -> None:
    said: list[str] = []
    source = cached(folder, cache, said.append)
    queue.put((said, source.packed(WEIGHT, NF4).tolist()))


def test_two_processes_that_race_for_a_cache_both_get_it_and_one_packs(tmp_path):
    saved_model("llama", tmp_path / "dense", num_hidden_layers=12)
    context = processes()
    queue = context.Queue()
    both = [
        context.Process(target=race, args=(tmp_path / "dense", tmp_path / "cache", queue))
        for _ in range(2)
    ]
    for process in both:
        process.start()
    found = [queue.get(timeout=120) for _ in both]
    for process in both:
        process.join()

    assert found[0][1] == found[1][1]
    assert sum("packing the model" in text for said, _ in found for text in said) == 1


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    saved_model("llama", tmp_path / "dense")
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(FileError, match="cannot be made"):
        cached(tmp_path / "dense", tmp_path / "cache")
