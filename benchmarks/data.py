"""Tokenising: bigpeft's preparation of rows, and `datasets.map` with the same tokenizer and cores.

    python benchmarks/data.py [--repeats 5] [--rows 40000] [--tokenizer FOLDER]

Both read the same JSON lines of `prompt` and `completion` and leave tokens with a mask of what is
learned in a file; sides alternate, and each runs in a process of its own. The stock side is the
usual one: one batched function that tokenises prompts and whole texts, since the mask needs both
lengths. A second stock side tokenises whole texts alone and makes no mask: less work than bigpeft
does. Prints medians and writes benchmarks/results/data.json.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "data.json"


def write_rows(path: Path, count: int) -> None:
    """Questions and answers of words, log-normal in length."""
    draw = random.Random(0)
    words = (ROOT / "LICENSE").read_text().split()
    with path.open("w") as file:
        for _ in range(count):
            prompt, completion = (
                " ".join(draw.choices(words, k=1 + int(draw.lognormvariate(mean, 0.7))))
                for mean in (3.0, 4.0)
            )
            file.write(json.dumps({"prompt": prompt + " ", "completion": completion}) + "\n")


def by_bigpeft(rows: Path, tokenizer: Path, out: Path) -> int:
    """As a run prepares its rows."""
    from bigpeft.recipe import load_recipe
    from bigpeft.train.preview import preview

    overrides = [
        f"data.path={rows}",
        f"run.folder={out}",
        f"model.tokenizer={tokenizer}",
        "model.config.vocab_size=1000000",
        "data.max_length=4096",
        "eval=null",
    ]
    return preview(load_recipe(ROOT / "recipes" / "debug.yaml", overrides), 0).tokens


def by_datasets(rows: Path, tokenizer: Path, out: Path, masked: bool) -> int:
    """As examples of `datasets` and `transformers` do it."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    known = AutoTokenizer.from_pretrained(tokenizer)

    def tokens(batch: dict[str, list[str]]) -> dict[str, Any]:
        pairs = zip(batch["prompt"], batch["completion"], strict=True)
        ids = known([p + c + known.eos_token for p, c in pairs])["input_ids"]
        if not masked:
            return {"input_ids": ids}
        starts = [len(prompt) for prompt in known(batch["prompt"])["input_ids"]]
        rows = zip(ids, starts, strict=True)
        return {"input_ids": ids, "labels": [[-100] * n + row[n:] for row, n in rows]}

    found = load_dataset("json", data_files=str(rows), split="train", cache_dir=str(out))
    cores = len(os.sched_getaffinity(0))
    made = found.map(tokens, batched=True, num_proc=cores, remove_columns=found.column_names)
    return sum(map(len, made.with_format("numpy")["input_ids"][:1000]))


SIDES: dict[str, Callable[[Path, Path, Path], int]] = {
    "datasets.map": lambda *of: by_datasets(*of, masked=True),
    "datasets.map, no mask": lambda *of: by_datasets(*of, masked=False),
    "bigpeft": by_bigpeft,
}


def measure(side: str, rows: Path, tokenizer: Path) -> None:
    """One side in this process, libraries imported before: prints its seconds."""
    import datasets
    import transformers  # noqa: F401

    import bigpeft.train.preview  # noqa: F401

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as out:
        started = time.monotonic()
        SIDES[side](rows, tokenizer, Path(out) / "out")
        print(json.dumps(time.monotonic() - started))


def main() -> None:
    """Run the sides in turn; medians, and ratios within rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=40000)
    parser.add_argument("--tokenizer", type=Path, default=ROOT / "models/smollm2-135m-instruct")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        measure(asked.side, asked.file, asked.tokenizer)
        return
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as name:
        rows = Path(name) / "rows.jsonl"
        write_rows(rows, asked.rows)
        for _ in range(asked.repeats):
            for side, found in seconds.items():
                command = [sys.executable, __file__, "--side", side, "--file", str(rows)]
                command += ["--tokenizer", str(asked.tokenizer)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stdout + done.stderr)
                found.append(json.loads(done.stdout.splitlines()[-1]))
    report(asked.rows, seconds)


def report(rows: int, seconds: dict[str, list[float]]) -> None:
    """Speeds in rows per second, and bigpeft's over the others' of the same round."""
    ours = seconds["bigpeft"]
    table = Table("", "seconds", "rows/s", "speed of bigpeft over it", title=f"{rows} rows")
    results = {}
    for side, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, ours, strict=True))
        median = statistics.median(found)
        results[side] = {"seconds": found, "median": median, "speed_of_bigpeft_over_it": ratio}
        table.add_row(side, f"{median:.2f}", f"{rows / median:.0f}", f"{ratio:.2f}")
    RESULT.write_text(json.dumps({"rows": rows, "sides": results}, indent=1) + "\n")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
