"""A merged model is the run's own model. Oracle: the run's held-out loss, read by another run."""

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from typer.testing import CliRunner

from bigpeft.backbone.copies.streamed import StreamedFolder
from bigpeft.backbone.copies.writer import Bundle, Entry, shards, write_file
from bigpeft.backbone.sources import PackedFolder, SafetensorsFolder
from bigpeft.cli import app
from bigpeft.errors import FileError, RecipeError, WeightError
from bigpeft.export import Written, merge, open_run, read_adapter
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import saved_model
from tests.interruption import Interrupted, half_way
from tests.train.runs import run, summary, train_and_save_here
from tests.worlds import world

SHORT = ["model.layers=2", "train.steps=2", "optimizer.learning_rate=1e-2"]
METHODS = {
    "lora": ["method.name=lora"],
    "dora": ["method.name=dora"],
    "pissa": ["method.name=pissa"],
    "ssb and norms": ["method={name: ssb, train_modules: [norm]}"],
    "pica": ["method.name=pica"],
    "adalora": ["method={name: adalora, rank: 6, target_rank: 3, interval: 1}"],
    "oft": ["method={name: oft, block_size: 16}"],
}


def exported(folder: Path, *overrides: str) -> Path:
    world(1).call(train_and_export, folder, overrides)
    return folder


def train_and_export(folder: Path, overrides: list[str]) -> None:
    train_and_export_plain(folder, [*SHORT, *overrides])


def train_and_export_plain(folder: Path, overrides: list[str]) -> None:
    train_and_save_here(folder, overrides)


def loss_of(model: Path, folder: Path, weights: str = "none") -> float:
    """Held-out loss of a plain model, by a run that has not trained yet."""
    overrides = [f"model={{name: {model}, tokenizer: recipes/data/debug/tokenizer}}"]
    run(1, folder, *overrides, f"model.weights={weights}", "train.steps=1")
    return summary(folder)["eval_loss_before"]


def assert_image_is_the_run(run_folder: Path, place: Path) -> None:
    """`place`/merged, over the image of the base, has the loss that the run measured at its end."""
    merge(open_run(run_folder), place / "merged", "image")

    found = loss_of(place / "merged", place / "reader")
    assert found == pytest.approx(summary(run_folder)["eval_loss_after"], rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_image_merge_has_the_loss_that_the_run_measured(method, tmp_path):
    folder = exported(tmp_path / "run", *METHODS[method])

    merged = merge(open_run(folder), tmp_path / "merged", "image", shard_bytes=200_000)

    assert merged.shards > 1
    found = loss_of(tmp_path / "merged", tmp_path / "reader")
    assert found == pytest.approx(summary(folder)["eval_loss_after"], rel=1e-5)
    assert summary(folder)["eval_loss_after"] != summary(folder)["eval_loss_before"]


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("lora") / "run", "method.name=lora")


def test_transformers_opens_it_and_the_change_is_on_the_dense_weights(lora, tmp_path):
    opened = open_run(lora)
    merge(opened, tmp_path / "merged")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    source = opened.open_weights()
    for name, parameter in model.named_parameters():
        layer = name.removesuffix(".weight")
        expected = source.read(name)
        if layer in opened.seated:
            expected = expected + opened.seated[layer].delta(torch.float32)
        assert torch.allclose(parameter, expected, atol=1e-7), name


def test_an_interrupted_merge_goes_on_and_ends_alike(lora, tmp_path):
    merge(open_run(lora), tmp_path / "whole", shard_bytes=200_000)
    with pytest.raises(Interrupted):
        merge(open_run(lora), tmp_path / "again", shard_bytes=200_000, progress=half_way)
    assert not (tmp_path / "again").exists()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "again.part").glob("*.safetensors")}
    merge(open_run(lora), tmp_path / "again", shard_bytes=200_000)

    assert kept
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    for name, written in kept.items():
        assert (tmp_path / "again" / name).stat().st_mtime_ns == written
    assert not (tmp_path / "again.part").exists()


def test_what_no_weight_can_hold_is_refused_by_name(tmp_path):
    folder = exported(tmp_path / "run", "method.name=bitfit")

    with pytest.raises(RecipeError, match=r"bitfit: computes at .* what no weight can hold"):
        merge(open_run(folder), tmp_path / "merged")

    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_an_adapter_of_another_recipe_is_refused_with_the_tensor(lora, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "run")
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("rank: 4", "rank: 3"))

    with pytest.raises(FileError, match=r"does not fit its recipe: .*lora_A is of shape"):
        open_run(folder)


def test_the_command_says_which_base_and_refuses_a_folder_that_is_there(lora, tmp_path):
    runner = CliRunner()

    said = runner.invoke(app, ["merge", str(lora), str(tmp_path / "out")])
    assert said.exit_code == 0
    assert "14 linears merged" in said.output
    assert "--base image" in said.output
    again = runner.invoke(app, ["merge", str(lora), str(tmp_path / "out")])
    assert isinstance(again.exception, FileError)
    described = json.loads((tmp_path / "out" / "bigpeft.json").read_text())
    assert described["base"]["merged_into"] == "dense"


def test_a_disk_that_fills_in_the_middle_leaves_nothing(tmp_path):
    entry = Entry("w", torch.float32, (400, 4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(FileError, match=r"x\.safetensors: cannot be written"):
            write_file(tmp_path / "x.safetensors", [entry], [torch.zeros(400, 4)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert not list(tmp_path.iterdir())


def test_files_are_cut_by_size_and_read_back(tmp_path):
    tensors = {f"t{n}": torch.randn(n + 1, 3).to(torch.bfloat16) for n in range(9)}
    entries = [Entry(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    bundles = [Bundle(entry.name, (entry,)) for entry in entries]

    cut = shards(bundles, 60)

    assert [b for shard in cut for b in shard] == bundles
    assert all(len(s) == 1 or sum(e.nbytes for e in s) <= 60 for s in cut)
    write_file(tmp_path / "x.safetensors", entries, tensors.values())
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert all(torch.equal(file.get_tensor(name), t) for name, t in tensors.items())


def dense_base(folder: Path, **more: object) -> Path:
    saved_model("llama", folder, vocab_size=384, max_position_embeddings=256, **more)
    return folder


def over(model: Path) -> list[str]:
    return [f"model={{name: {model}, tokenizer: recipes/data/debug/tokenizer}}", *SHORT[1:]]


@pytest.fixture(scope="module")
def over_files(tmp_path_factory):
    """A run over a dense folder, that folder, and its packed copy."""
    place = tmp_path_factory.mktemp("files")
    base = dense_base(place / "dense")
    packed = CliRunner().invoke(app, ["quantize", str(base), str(place / "packed")])
    assert packed.exit_code == 0, packed.output
    folder = place / "run"
    world(1).call(train_and_export_plain, folder, over(base))
    return folder, base, place / "packed"


@pytest.mark.parametrize("weights", ["nf4", "fp4"])
def test_packed_results_hold_the_codes_of_the_dense_result(weights, over_files, tmp_path):
    folder, _, _ = over_files
    merge(open_run(folder), tmp_path / "dense")
    merge(open_run(folder), tmp_path / "packed", written=Written(weights))

    dense, packed = SafetensorsFolder(tmp_path / "dense"), PackedFolder(tmp_path / "packed")
    codec = make_codec(weights, CodecOptions())
    for name in packed.manifest.packed:
        assert torch.equal(packed.packed(name, codec), codec.encode(dense.read(name))), name
    for name in dense.shapes().keys() - set(packed.manifest.packed):
        assert torch.equal(packed.read(name), dense.read(name))
    source = packed.manifest.source
    assert source.tensors[name][2] == dense.digests[name]


@pytest.mark.parametrize("nested", [True, False])
def test_transformers_opens_the_bitsandbytes_result(nested, over_files, tmp_path):
    folder, _, _ = over_files
    merge(open_run(folder), tmp_path / "dense")
    options = [str(folder), str(tmp_path / "bnb"), "--weights", "nf4", "--format", "bitsandbytes"]
    said = CliRunner().invoke(app, ["merge", *options, "--nested" if nested else "--no-nested"])
    assert said.exit_code == 0, said.output

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=nested
    )
    load = AutoModelForCausalLM.from_pretrained
    stock = load(tmp_path / "dense", quantization_config=config, dtype=torch.float32)
    ours = load(tmp_path / "bnb", dtype=torch.float32)

    theirs = dict(stock.named_parameters())
    packed = {n: p for n, p in ours.named_parameters() if type(p).__name__ == "Params4bit"}
    assert len(packed) == 14
    assert "no multiple of the block" in said.output
    for name, parameter in packed.items():
        assert torch.equal(parameter.data, theirs[name].data), name
        mine, its = parameter.quant_state, theirs[name].quant_state
        assert torch.equal(mine.absmax, its.absmax)
        assert (mine.shape, mine.dtype, mine.blocksize) == (its.shape, its.dtype, its.blocksize)
        if nested:
            assert torch.equal(mine.offset, its.offset)
            assert torch.equal(mine.state2.absmax, its.state2.absmax)


def test_a_run_over_a_packed_base_merges_with_its_image_or_with_the_dense_weights(
    over_files, tmp_path
):
    folder, dense, packed = over_files
    again = tmp_path / "run"
    world(1).call(train_and_export_plain, again, over(packed))

    assert summary(again)["eval_loss_after"] == summary(folder)["eval_loss_after"]
    with pytest.raises(RecipeError, match=r"--base image, or --model FOLDER"):
        merge(open_run(again), tmp_path / "refused")
    merge(open_run(again), tmp_path / "image", "image")
    merge(open_run(again, dense), tmp_path / "dense")
    merge(open_run(folder), tmp_path / "same")

    found = loss_of(tmp_path / "image", tmp_path / "reader")
    assert found == pytest.approx(summary(again)["eval_loss_after"], rel=1e-5)
    one, other = tmp_path / "dense/model.safetensors", tmp_path / "same/model.safetensors"
    assert one.read_bytes() == other.read_bytes()


def test_a_base_of_bitsandbytes_merges_with_its_image_alone(over_files, tmp_path):
    folder, _, _ = over_files
    merge(open_run(folder), tmp_path / "base", written=Written("nf4", format="bitsandbytes"))
    again = tmp_path / "run"
    world(1).call(train_and_export_plain, again, over(tmp_path / "base"))

    with pytest.raises(RecipeError, match=r"write --base image$"):
        merge(open_run(again), tmp_path / "refused")
    assert_image_is_the_run(again, tmp_path)


def test_another_base_is_refused_with_its_first_difference(over_files, tmp_path):
    folder, _, _ = over_files
    other = dense_base(tmp_path / "other", initializer_range=0.5)

    with pytest.raises(WeightError, match=r"was trained on base \w{16}.*the hash of"):
        merge(open_run(folder, other), tmp_path / "merged")

    assert not (tmp_path / "merged").exists()


def test_layers_that_were_not_seated_are_the_image_too(over_files, tmp_path):
    _, dense, _ = over_files
    folder = tmp_path / "run"
    only = ["method={name: lora, rank: 4, target_modules: [q_proj]}"]
    world(1).call(train_and_export_plain, folder, over(dense) + only)

    assert_image_is_the_run(folder, tmp_path)


def test_a_start_out_of_the_image_merges_with_the_image_alone(over_files, tmp_path):
    _, dense, packed = over_files
    folder = tmp_path / "run"
    world(1).call(train_and_export_plain, folder, [*over(packed), "method={name: pissa, rank: 4}"])

    assert read_adapter(folder / "adapter")[1]["base"]["started_from"] == "image"
    with pytest.raises(RecipeError, match=r"(?s)start out of the image.*--base image without"):
        merge(open_run(folder, dense), tmp_path / "refused")
    assert_image_is_the_run(folder, tmp_path)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_merge_by_rows_is_the_merge_of_whole_tensors(method, over_files, tmp_path, monkeypatch):
    _, dense, _ = over_files
    folder = tmp_path / "run"
    world(1).call(train_and_export_plain, folder, [*over(dense), f"method.name={method}"])

    merge(open_run(folder), tmp_path / "whole")
    monkeypatch.setattr("bigpeft.export.by_rows._NUMBERS", 200)
    monkeypatch.setattr("bigpeft.export.by_rows._FEW", 8)
    told: list[int] = []
    merge(open_run(folder), tmp_path / "rows", progress=lambda done, total: told.append(done))

    one, other = (load_file(tmp_path / f"{n}/model.safetensors") for n in ("whole", "rows"))
    assert len(told) > 50
    for name, tensor in one.items():
        assert torch.allclose(tensor, other[name], rtol=1e-6, atol=1e-7), name


def test_damage_in_the_base_is_found_by_rows_too(over_files, tmp_path, monkeypatch):
    folder, dense, _ = over_files
    other = shutil.copytree(dense, tmp_path / "dense")
    path = other / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("bigpeft.export.by_rows._NUMBERS", 200)

    with pytest.raises(WeightError, match=r"was trained on base \w{16}.*the hash of"):
        merge(open_run(folder, other), tmp_path / "merged")

    assert not (tmp_path / "merged").exists()


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    first, second = one_tensor(tmp_path / "out"), one_tensor(tmp_path / "out")

    with first, pytest.raises(FileError, match="locked by another process"), second:
        pass
    with second:
        second.write(lambda bundle, piece: [torch.zeros(4, 4)], 1, lambda done, total: None)
        second.finish()

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def one_tensor(folder: Path, shape: tuple[int, int] = (4, 4)) -> StreamedFolder:
    return StreamedFolder(folder, [Bundle("w", (Entry("w", torch.float32, shape),))], 1000, {})


def test_a_folder_that_is_not_ours_is_not_written_into(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "mine.txt").write_text("x")

    with pytest.raises(FileError, match=r"out\.part: is in the way, and not ours"):
        one_tensor(tmp_path / "out").__enter__()

    assert (tmp_path / "out.part" / "mine.txt").read_text() == "x"


def test_a_folder_that_appeared_meanwhile_is_refused(tmp_path):
    late = one_tensor(tmp_path / "out")
    (tmp_path / "out").mkdir()

    with pytest.raises(FileError, match="is there already"):
        late.__enter__()

    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_finished_file_that_was_damaged_is_written_again(lora, tmp_path):
    merge(open_run(lora), tmp_path / "whole", shard_bytes=200_000)
    with pytest.raises(Interrupted):
        merge(open_run(lora), tmp_path / "again", shard_bytes=200_000, progress=half_way)
    first = min((tmp_path / "again.part").glob("*.safetensors"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    merge(open_run(lora), tmp_path / "again", shard_bytes=200_000)

    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_what_was_merged_with_another_strength_is_not_gone_on_with(lora, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "run")
    with pytest.raises(Interrupted):
        merge(open_run(folder), tmp_path / "again", shard_bytes=200_000, progress=half_way)
    recipe = folder / "recipe.yaml"
    assert "alpha: 8" in recipe.read_text()
    recipe.write_text(recipe.read_text().replace("alpha: 8", "alpha: 80"))
    merge(open_run(folder), tmp_path / "again", shard_bytes=200_000)
    merge(open_run(folder), tmp_path / "whole", shard_bytes=200_000)

    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_tied_weights_that_a_file_keeps_twice_are_written_once(tmp_path):
    base = tmp_path / "base"
    saved_model("llama-tied", base, vocab_size=384, max_position_embeddings=256)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "run"
    more = ["method={name: lora, rank: 4, train_modules: [embed_tokens]}"]
    world(1).call(train_and_export_plain, folder, over(base) + more)

    assert_image_is_the_run(folder, tmp_path)
    merged = load_file(tmp_path / "merged/model.safetensors")
    trained = read_adapter(folder / "adapter")[0]["model.embed_tokens.weight"]
    assert torch.equal(merged["model.embed_tokens.weight"], trained)
    assert "lm_head.weight" not in merged


def test_a_cut_model_is_merged_without_the_layers_that_it_left_out(over_files, tmp_path):
    _, dense, _ = over_files
    folder = tmp_path / "run"
    world(1).call(train_and_export_plain, folder, [*over(dense), "model.layers=1"])

    assert_image_is_the_run(folder, tmp_path)
    names = load_file(tmp_path / "merged/model.safetensors").keys()
    assert not any(name.startswith("model.layers.1.") for name in names)


def test_the_merged_model_has_the_tokenizer_of_the_run(tmp_path):
    base = dense_base(tmp_path / "base")
    (base / "tokenizer.json").write_text("{}")
    (base / "merges.txt").write_text("of the base")
    (base / "generation_config.json").write_text('{"temperature": 0.7}')
    folder = tmp_path / "run"
    world(1).call(train_and_export_plain, folder, over(base))

    merge(open_run(folder), tmp_path / "merged")

    found = AutoTokenizer.from_pretrained(tmp_path / "merged")
    wanted = AutoTokenizer.from_pretrained("recipes/data/debug/tokenizer")
    assert found.get_vocab() == wanted.get_vocab()
    assert found.chat_template == wanted.chat_template
    assert not (tmp_path / "merged/merges.txt").exists()
    said = json.loads((tmp_path / "merged/generation_config.json").read_text())
    assert said["temperature"] == 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "bitsandbytes"], r"--format: is of packed weights.*add --weights nf4"),
        (["--weights", "nf4", "--block", "48"], r"--block"),
    ],
)
def test_options_that_mean_nothing_are_refused_and_leave_nothing(
    options, message, over_files, tmp_path
):
    folder, _, _ = over_files

    said = CliRunner().invoke(app, ["merge", str(folder), str(tmp_path / "out"), *options])

    assert isinstance(said.exception, RecipeError)
    assert re.search(message, str(said.exception), re.DOTALL)
    assert not list(tmp_path.iterdir())


def test_a_place_without_room_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(FileError, match=r"needs [\d.]+ GB, [\d.]+ GB are free"):
        one_tensor(tmp_path / "out", (1 << 30, 1 << 20)).__enter__()

    assert not list(tmp_path.iterdir())


def test_a_format_that_there_is_not_is_refused(over_files, tmp_path):
    folder, _, _ = over_files

    for weights, message in (("nf5", "nf5 is no format"), ("none", "")):
        said = CliRunner().invoke(
            app, ["merge", str(folder), str(tmp_path / f"out-{weights}"), "--weights", weights]
        )
        assert message in str(said.exception or "")
        assert (said.exit_code == 0) == (weights == "none")
