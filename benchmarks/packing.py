"""Rows padded, grouped by length and packed: tokens per second of real runs, side by side.

    python benchmarks/packing.py [--repeats 5] [--rows 2000]

The rows are text of log-normal length, the model a random Llama of a few layers over nf4. Every
way sees about as many places (tokens and padding) in a step; what counts is how many are tokens.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "packing.json"
LENGTH, STEPS, WARM = 512, 12, 2
MODEL = {
    "model_type": "llama",
    "vocab_size": 384,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": LENGTH,
}
WAYS = {
    "padded": ["batch={global_size: 16, micro_size: 8}"],
    "grouped": ["batch={global_size: 16, micro_size: 8}", "data.group_by_length=true"],
    "packed": ["batch={global_size: 4, micro_size: 2}", "data.packing=true"],
}


def write_rows(path: Path, count: int) -> None:
    """Text whose length in tokens of the debug tokenizer is log-normal, median about 90."""
    draw = random.Random(0)
    words = [line for line in (ROOT / "LICENSE").read_text().split() if line.isalpha()]
    with path.open("w") as file:
        for _ in range(count):
            letters = min(3 * LENGTH, int(draw.lognormvariate(5.0, 1.0)))
            text = ""
            while len(text) < letters:
                text += draw.choice(words) + " "
            file.write(json.dumps({"text": text}) + "\n")


def one_run(folder: Path, rows: Path, way: str) -> dict[str, float]:
    """Tokens per second after the first steps, their share of all places, and of waiting."""
    words = ["deepspeed", "--num_gpus", "1", "--master_port", "29611", "launch/train.py"]
    words += ["--recipe", "recipes/debug.yaml", f"run.folder={folder}", f"data.path={rows}"]
    words += [f"model.config={json.dumps(MODEL)}", "eval=null", f"train.steps={STEPS}"]
    words += [f"data.max_length={LENGTH}", "data.long_rows=truncate", "train.precision=auto"]
    done = subprocess.run([*words, *WAYS[way]], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = metrics[WARM:]
    seconds = sum(row["seconds"] for row in timed)
    return {
        "tokens_per_second": sum(row["tokens"] for row in timed) / seconds,
        "waiting_share": sum(row["waiting_seconds"] for row in timed) / seconds,
    }


def filled(folder: Path, rows: Path, way: str) -> float:
    """Share of the places of batches that hold a token."""
    from bigpeft.recipe import load_recipe
    from bigpeft.train.preview import preview

    overrides = [f"run.folder={folder}", f"data.path={rows}", "eval=null", *WAYS[way]]
    overrides += [f"data.max_length={LENGTH}", "data.long_rows=truncate"]
    return preview(load_recipe(ROOT / "recipes" / "debug.yaml", overrides), 0).filled


def main() -> None:
    """Run every way in turn, several times; medians, and the ratio to padding."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--rows", type=int, default=2000)
    asked = options.parse_args()
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.chdir(ROOT)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name) / "rows.jsonl"
        write_rows(rows, asked.rows)
        for repeat in range(asked.repeats):
            for way in WAYS:
                runs[way].append(one_run(Path(name) / f"{way}-{repeat}", rows, way))
        fill = {way: filled(Path(name) / f"look-{way}", rows, way) for way in WAYS}
    results = {}
    for way, found in runs.items():
        speeds = [run["tokens_per_second"] for run in found]
        ratios = [s / p["tokens_per_second"] for s, p in zip(speeds, runs["padded"], strict=True)]
        results[way] = {
            "tokens_per_second": statistics.median(speeds),
            "of_padded": statistics.median(ratios),
            "of_padded_lowest": min(ratios),
            "filled": fill[way],
            "waiting_share": statistics.median(run["waiting_share"] for run in found),
        }
    RESULT.write_text(
        json.dumps({"rows": asked.rows, "repeats": asked.repeats} | results, indent=2)
    )
    table = Table(title=f"{asked.rows} rows of log-normal length, data.max_length {LENGTH}")
    for title in ("rows", "tokens/s", "of padded", "lowest", "filled", "waiting"):
        table.add_column(title)
    for way, found in results.items():
        table.add_row(
            way,
            f"{found['tokens_per_second']:.0f}",
            f"{found['of_padded']:.2f}",
            f"{found['of_padded_lowest']:.2f}",
            f"{found['filled']:.1%}",
            f"{found['waiting_share']:.2%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
