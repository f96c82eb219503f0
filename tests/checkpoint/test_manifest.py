"""Oracle: the files themselves; every way to damage one is tried on every file of a real save."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from bigpeft.checkpoint import find, verify
from bigpeft.checkpoint.manifest import MANIFEST
from bigpeft.errors import CheckpointError
from tests.train.runs import column, refusals, run

OVERRIDES = ["train.steps=3", "eval=null", "checkpoint={every: 1, keep: 2}"]
STOPPED = [*OVERRIDES, "train.steps=4", "train.stop_after=3"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of three steps that saved after each and kept two."""
    return run(2, tmp_path_factory.mktemp("saved"), *STOPPED)


@pytest.fixture
def root(saved: Path, tmp_path: Path) -> Path:
    """A copy of its checkpoints."""
    return shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def flip_one_bit(path: Path, at: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {
    "a bit in the first byte": lambda path: flip_one_bit(path, 0.0),
    "a bit in the middle": lambda path: flip_one_bit(path, 0.5),
    "a bit in the last third": lambda path: flip_one_bit(path, 0.7),
    "cut in the middle": halve,
    "empty": lambda path: path.write_bytes(b""),
    "one byte longer": lambda path: path.write_bytes(path.read_bytes() + b"}"),
    "missing": Path.unlink,
}


def forge(folder: Path, name: str, target: Path) -> None:
    """A manifest, right in itself, that lists one more file."""
    content = json.loads((folder / MANIFEST).read_text())
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
    content["files"][name] = {"bytes": target.stat().st_size, "sha256": digest}
    body = json.dumps(content["files"], sort_keys=True)
    content["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(content))


def test_a_save_holds_what_it_should_and_verifies(root):
    newest = root / "step-000003"

    verify(newest)

    names = files_of(newest)
    assert {MANIFEST, "meta.json", "rng-00000.safetensors", "rng-00001.safetensors"} < set(names)
    assert all(name.endswith((".json", ".safetensors")) for name in names)
    meta = json.loads((newest / "meta.json").read_text())
    assert (meta["step"], meta["rows"], meta["world_size"]) == (3, 12, 2)
    assert meta["recipe"]["method"]["rank"] == 4
    assert (meta["plan"]["stage"], meta["plan"]["accumulation_steps"]) == (3, 2)
    assert meta["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_and_the_file_is_named(damage, root):
    names = files_of(root / "step-000003")
    assert len(names) >= 6

    for name in names:
        folder = shutil.copytree(root / "step-000003", root / "copy")
        DAMAGES[damage](folder / name)

        with pytest.raises(CheckpointError) as caught:
            verify(folder)

        assert caught.value.what == str(folder / name)
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["../outside.json", "deep/../../outside.json", "absolute", "link"])
def test_a_manifest_may_not_point_out_of_its_folder(kind, root):
    folder, outside = root / "step-000003", root / "outside.json"
    outside.write_text("{}")
    name = {"absolute": str(outside), "link": "link.json"}.get(kind, kind)
    if kind == "link":
        (folder / name).symlink_to(outside)
    forge(folder, name, outside)

    with pytest.raises(CheckpointError, match="points out of the checkpoint") as caught:
        verify(folder)

    assert name.rpartition("/")[2] in caught.value.what


def test_a_shard_that_the_manifest_does_not_know_is_refused(root):
    folder = root / "step-000003"
    shard = next(folder.glob("shard*.safetensors"))
    shutil.copy(shard, folder / "shard-00009-model-00001-of-00001.safetensors")

    with pytest.raises(CheckpointError, match="shard-00009"):
        verify(folder)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"files": {}}', '{"files": 3}'])
def test_a_manifest_of_another_kind_is_named(content, root):
    manifest = root / "step-000003" / MANIFEST
    manifest.write_text(content)

    with pytest.raises(CheckpointError) as caught:
        verify(root / "step-000003")

    assert caught.value.what == str(manifest)


def test_auto_takes_the_newest_that_verifies_and_says_why_it_passes_one_over(root):
    said: list[str] = []
    assert find(root, "auto", said.append) == root / "step-000003"
    assert said == []

    flip_one_bit(root / "step-000003" / "meta.json", 0.5)

    assert find(root, "auto", said.append) == root / "step-000002"
    (why,) = said
    assert "step-000003" in why
    assert "meta.json" in why
    assert "damaged" in why


def test_auto_does_not_start_anew_over_checkpoints_that_are_all_damaged(root):
    said: list[str] = []
    for step in ("step-000002", "step-000003"):
        (root / step / MANIFEST).unlink()

    with pytest.raises(CheckpointError, match="holds 2 checkpoints, none of them whole"):
        find(root, "auto", said.append)

    assert len(said) == 2


def test_auto_finds_nothing_where_nothing_is(root):
    said: list[str] = []

    assert find(root / "nowhere", "auto", said.append) is None
    assert find(root, "never", said.append) is None


@pytest.mark.parametrize("step", ["step-000003", "step-000077"])
def test_a_checkpoint_asked_for_by_path_must_verify(step, root):
    (root / "step-000003" / "meta.json").unlink()

    with pytest.raises(CheckpointError, match=step):
        find(root, str(root / step), print)


def test_a_half_written_save_is_never_resumed_and_the_next_save_removes_it(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")
    root = folder / "checkpoints"
    shutil.copytree(root / "step-000003", root / "step-000009.tmp")
    assert find(root, "auto", print) == root / "step-000003"

    run(2, folder, *OVERRIDES, "train.steps=4", "checkpoint.resume=auto")

    assert column(folder, "step") == [1, 2, 3, 4]
    assert sorted(p.name for p in root.glob("step-*")) == ["step-000003", "step-000004"]


def test_the_newest_is_that_of_the_highest_step_whatever_its_digits(root):
    shutil.move(root / "step-000002", root / "step-999999")
    shutil.move(root / "step-000003", root / "step-1000000")

    assert find(root, "auto", print) == root / "step-1000000"


def test_only_the_newest_are_kept(saved):
    steps = sorted(p.name for p in (saved / "checkpoints").glob("step-*"))

    assert steps == ["step-000002", "step-000003"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("method.rank=5", "rank"),
        ("method.alpha=9", "alpha"),
        ("method.name=ssb", "method"),
        ("optimizer.learning_rate=1e-5", "optimizer"),
        ("optimizer.betas=[0.8, 0.9]", "betas"),
        ("batch.global_size=8", "batch.global_size"),
        ("run.seed=8", "run.seed"),
        ("data.limit=9", "data"),
        ("model.weights=fp4", "weights"),
        ("train.precision=bf16", "precision"),
    ],
)
def test_a_run_of_other_numerics_is_refused_by_every_rank(change, key, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "run")

    answers = refusals(2, folder, *OVERRIDES, "train.steps=4", "checkpoint.resume=auto", change)

    for kind, text in answers:
        assert kind == "CheckpointError"
        assert "step-000003" in text
        assert key in text.partition("\n")[0]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
