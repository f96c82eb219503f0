"""One base in several forms: dense, packed, cached, read by nodes. Oracle: the dense run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bigpeft.backbone import (
    Loader,
    Readers,
    SafetensorsFolder,
    Whole,
    build_skeleton,
    freeze_linears,
    node_group,
    read_config,
)
from bigpeft.cli import app
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import saved_model
from tests.train.runs import column, refusals, run
from tests.worlds import world

SHORT = ["train.steps=4", "optimizer.learning_rate=1e-2", "checkpoint.every=2"]
PISSA = "method={name: pissa, rank: 4}"


def over(model: Path, **more: object) -> list[str]:
    keys = "".join(f", {key}: {value}" for key, value in more.items())
    return [f"model={{name: {model}, tokenizer: recipes/data/debug/tokenizer{keys}}}", *SHORT]


def base_of(folder: Path, **more: object) -> Path:
    saved_model("llama", folder, vocab_size=384, max_position_embeddings=256, **more)
    return folder


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, its packed copy, and a run of two ranks over the dense one."""
    place = tmp_path_factory.mktemp("forms")
    arguments = [str(base_of(place / "dense")), str(place / "packed")]
    assert CliRunner().invoke(app, ["quantize", *arguments]).exit_code == 0
    run(2, place / "run", *over(place / "dense"))
    return place


def test_a_run_over_the_packed_copy_is_the_run_bit_for_bit(forms, tmp_path):
    run(2, tmp_path / "run", *over(forms / "packed"))

    assert column(tmp_path / "run", "loss") == column(forms / "run", "loss")


def test_a_run_through_a_cache_is_the_run_bit_for_bit(forms, tmp_path):
    for name in ("first", "second"):
        run(2, tmp_path / name, *over(forms / "dense", cache=tmp_path / "cache"))

        assert column(tmp_path / name, "loss") == column(forms / "run", "loss")
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_random_weights_do_not_enter_the_cache_of_a_model(forms, tmp_path):
    cache = {"cache": tmp_path / "cache"}
    run(2, tmp_path / "random", *over(forms / "dense", random="true", **cache))
    run(2, tmp_path / "run", *over(forms / "dense", **cache))

    assert column(tmp_path / "random", "loss") != column(forms / "run", "loss")
    assert column(tmp_path / "run", "loss") == column(forms / "run", "loss")


def test_a_start_from_dense_weights_is_the_same_through_a_cache(forms, tmp_path):
    run(2, tmp_path / "dense", *over(forms / "dense"), PISSA)
    run(2, tmp_path / "cached", *over(forms / "dense", cache=tmp_path / "cache"), PISSA)
    run(2, tmp_path / "packed", *over(forms / "packed"), PISSA)

    assert column(tmp_path / "cached", "loss") == column(tmp_path / "dense", "loss")
    assert column(tmp_path / "packed", "loss") != column(tmp_path / "dense", "loss")
    refused = refusals(
        2, tmp_path / "dense", *over(forms / "packed"), PISSA, "checkpoint.resume=auto"
    )
    assert all("started_from = 'dense'" in text for _, text in refused)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_packed_copy_of_half_precision_files_is_the_base_to_the_last_bit(method, tmp_path):
    base_of(tmp_path / "dense", dtype="bfloat16")
    arguments = [str(tmp_path / "dense"), str(tmp_path / "packed")]
    assert CliRunner().invoke(app, ["quantize", *arguments]).exit_code == 0

    for form in ("dense", "packed"):
        run(2, tmp_path / f"run-{form}", *over(tmp_path / form), f"method.name={method}")

    assert column(tmp_path / "run-packed", "loss") == column(tmp_path / "run-dense", "loss")


def test_a_run_goes_on_over_another_form_of_its_base(forms, tmp_path):
    run(2, tmp_path / "run", *over(forms / "dense"), "train.stop_after=2")
    run(1, tmp_path / "run", *over(forms / "packed"), "checkpoint.resume=auto")

    found, unbroken = column(tmp_path / "run", "loss"), column(forms / "run", "loss")
    assert found == pytest.approx(unbroken, rel=1e-5)
    assert found[:2] == unbroken[:2]


def test_a_checkpoint_is_refused_over_another_base_with_both_fingerprints(forms, tmp_path):
    folder = shutil.copytree(forms / "run", tmp_path / "run")
    other = base_of(tmp_path / "other", initializer_range=0.5)
    more = [*over(other), "checkpoint.resume=auto", "train.steps=6"]

    refused = refusals(2, folder, *more)

    kinds, texts = zip(*refused, strict=True)
    assert kinds == ("CheckpointError", "CheckpointError")
    (meta,) = [
        json.loads(p.read_text()) for p in (folder / "checkpoints/step-000004").glob("meta*")
    ]
    assert set(meta["base"]) == {"config", "tensors"}
    assert "config.json says initializer_range = 0.02 there, 0.5 here" in texts[0]
    assert texts[0].count("base") == 2


def bytes_read_by_nodes(folder: Path, per_node: int) -> int:
    """As if every `per_node` ranks were a node."""
    rank = torch.distributed.get_rank()
    model = build_skeleton(read_config(folder, None, None, False))
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    source = SafetensorsFolder(folder)
    readers = Readers(rank % per_node, per_node, node_group(per_node))
    loader = Loader(source, Whole(), torch.device("cpu"), torch.float32, {}, readers)

    base = loader.fill(model)

    assert len(base.tensors) == len(source.shapes())
    assert not any(parameter.is_meta for parameter in model.parameters())
    return source.bytes_read


def test_each_node_reads_every_byte_once_where_the_recipe_says_so(forms):
    total = sum(path.stat().st_size for path in (forms / "dense").glob("*.safetensors"))

    alone = world(2).call(bytes_read_by_nodes, forms / "dense", 1)
    together = world(2).call(bytes_read_by_nodes, forms / "dense", 2)

    assert all(0.95 * total < read <= total for read in alone)
    assert 0.95 * total < sum(together) <= total
