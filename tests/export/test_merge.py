"""A merged model is the run's own model. Oracle: the run's held-out loss, read by another run."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError, RecipeError
from bigpeft.export import merge, open_run, save_adapter
from bigpeft.export.writer import Entry, shards, write_file
from bigpeft.recipe import load_recipe
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.train.runs import DEBUG, run, summary
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
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *SHORT, *overrides])
    finished = train(recipe, read_world(), Terminal(speaks=False))
    save_adapter(folder / "adapter", finished.trained, finished.plan, finished.engine)


def loss_of(model: Path, folder: Path, weights: str = "none") -> float:
    """Held-out loss of a plain model, by a run that has not trained yet."""
    overrides = [f"model={{name: {model}, tokenizer: recipes/data/debug/tokenizer}}"]
    run(1, folder, *overrides, f"model.weights={weights}", "train.steps=1")
    return summary(folder)["eval_loss_before"]


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
    class Interrupted(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise Interrupted

    merge(open_run(lora), tmp_path / "whole", shard_bytes=200_000)
    with pytest.raises(Interrupted):
        merge(open_run(lora), tmp_path / "again", shard_bytes=200_000, progress=stop)
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

    cut = shards(entries, 60)

    assert [e for shard in cut for e in shard] == entries
    assert all(len(s) == 1 or sum(e.nbytes for e in s) <= 60 for s in cut)
    write_file(tmp_path / "x.safetensors", entries, tensors.values())
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert all(torch.equal(file.get_tensor(name), t) for name, t in tensors.items())
