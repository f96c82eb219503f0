"""Which checkpoints a run keeps, and when it saves. Oracle: the run's own metrics and clock."""

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bigpeft.checkpoint.save import save
from bigpeft.errors import RecipeError
from bigpeft.recipe import load_recipe
from bigpeft.train.metrics import read_rows
from tests.train.runs import DEBUG, column, refusals, run, train_here
from tests.worlds import world


def kept(folder: Path) -> list[int]:
    names = (path.name for path in (folder / "checkpoints").glob("step-*"))
    return sorted(int(name.removeprefix("step-")) for name in names)


def test_the_best_and_every_third_stay_beside_the_newest(tmp_path):
    # What is learned contradicts what is held out, so that the first evaluation is the best.
    for name, letters in (("learned", "abc"), ("held-out", "xyz")):
        rows = [{"prompt": f"{n}: ", "completion": letters * 20} for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = run(
        2,
        tmp_path / "run",
        f"data={{path: {tmp_path}/learned.jsonl, max_length: 128}}",
        f"eval={{path: {tmp_path}/held-out.jsonl}}",
        "train.steps=8",
        "train.evaluate_every=2",
        "optimizer={learning_rate: 0.01, warmup_steps: 0, schedule: constant}",
        "checkpoint={every: 1, keep: 1, keep_best: true, keep_every: 3}",
    )

    rows = read_rows(folder / "metrics.jsonl")
    losses = {row["step"]: row["eval_loss"] for row in rows if "eval_loss" in row}
    best = min(losses, key=losses.__getitem__)
    assert list(losses) == [2, 4, 6, 8]
    assert best not in (6, 8)
    assert kept(folder) == sorted({3, 6, 8, best})


def test_minutes_are_time_and_not_steps(tmp_path):
    started = time.monotonic()
    folder = run(
        2, tmp_path / "run", "train.steps=60", "eval=null", "checkpoint={every: 1s, keep: 100}"
    )
    seconds = time.monotonic() - started

    saves = kept(folder)
    assert saves[-1] == 60
    assert 1 <= len(saves) <= seconds + 1
    written = [
        (folder / f"checkpoints/step-{step:06d}/manifest.json").stat().st_mtime for step in saves
    ]
    assert all(other - one > 0.99 for one, other in pairwise(written[:-1]))


def damaged_while_written(folder: Path, overrides: list[str]) -> None:
    """A run on a disk that loses a bit of the third checkpoint on its way."""
    saving: Any = sys.modules[save.__module__]
    written = saving.write_manifest

    def lose(path: Path, files: Any) -> None:
        written(path, files)
        if path.name.startswith("step-000003"):
            content = bytearray((path / "meta.json").read_bytes())
            content[5] ^= 1
            (path / "meta.json").write_bytes(content)

    saving.write_manifest = lose
    try:
        train_here(folder, overrides)
    finally:
        saving.write_manifest = written


def test_older_ones_stay_until_the_new_one_verifies(tmp_path):
    overrides = ["train.steps=4", "eval=null", "checkpoint={every: 1, keep: 1}"]

    world(1).call(damaged_while_written, tmp_path / "run", [*overrides, "train.stop_after=3"])

    assert kept(tmp_path / "run") == [2, 3]
    run(1, tmp_path / "run", *overrides, "checkpoint.resume=auto")
    assert column(tmp_path / "run", "step") == [1, 2, 3, 4]
    assert kept(tmp_path / "run") == [4]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("checkpoint.every=30", None),
        ("checkpoint.every=30min", None),
        ("checkpoint.every=soon", r"checkpoint\.every.*soon.*30min"),
        ("checkpoint.every=0", r"checkpoint\.every"),
        ("checkpoint.every=0min", r"checkpoint\.every"),
    ],
)
def test_what_every_may_be(override, message):
    if message is None:
        load_recipe(DEBUG, [override])
        return
    with pytest.raises(RecipeError, match=rf"(?s){message}"):
        load_recipe(DEBUG, [override])


def test_the_best_needs_an_evaluation(tmp_path):
    refused = refusals(1, tmp_path / "run", "checkpoint.keep_best=true", "eval=null")

    assert [kind for kind, _ in refused] == ["RecipeError"]
    assert "checkpoint.keep_best: needs an eval section" in refused[0][1]
