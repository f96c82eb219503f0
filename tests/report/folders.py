"""Run folders written by hand, with the files and the keys of real ones."""

import json
import math
from pathlib import Path
from typing import Any

from bigpeft.recipe import dump_recipe, load_recipe
from tests.train.runs import DEBUG


def write_run(folder: Path, *overrides: str, steps: int = 40, of: int = 40, **rows: Any) -> Path:
    """A run of `of` steps that has made `steps`; `rows` replace what every row says of a key."""
    folder.mkdir(parents=True)
    recipe = load_recipe(DEBUG, [f"run.folder={folder}", *overrides])
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    write(folder, "run.json", {"steps": of, "starts": [{"step": 0}], "plan": {"trainable": 4321}})
    write(folder, "environment.json", {"python": "3.11.2", "packages": {"torch": "2.13.0"}})
    write(folder, "before.json", {"eval_loss": 5.5, "eval_accuracy": 0.25})
    lengths = {"width": 8, "counts": [0, 5, 30, 20, 9], "mean": 21.0, "median": 20, "longest": 39}
    card = {"rows": 64, "dropped": 0, "tokens": 1344, "target_tokens": 500, "lengths": lengths}
    file = {"path": "data/train.jsonl", "bytes": 8192, "sha256": "ab" * 32}
    write(folder, "data.json", {"train": card | {"files": [file]}, "eval": card | {"rows": 40}})
    lines = [json.dumps(row(step) | rows) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def row(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl; every tenth step is evaluated."""
    found: dict[str, Any] = {
        "step": step,
        "loss": 2 + 4 / math.sqrt(step),
        "grad_norm": 1 / step,
        "learning_rate": 1e-3,
        "tokens": 600,
        "target_tokens": 200,
        "seconds": 0.5,
        "memory_bytes": 3 * 2**30,
    }
    if step % 10 == 0:
        found |= {"eval_loss": 5.5 - step / 20, "eval_accuracy": 0.25 + step / 100}
    return found


def write(folder: Path, name: str, content: Any) -> None:
    """One JSON file of a run folder."""
    (folder / name).write_text(json.dumps(content))


def write_samples(folder: Path, *samples: dict[str, Any]) -> None:
    """samples.jsonl"""
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
