"""Every method learns: a short run of each on the quickstart task, two seeds, real model and data.

    python benchmarks/learn.py [--methods lora ssl] [--seeds 0 1] [--workers 2]

Each run is `launch/train.py` on one core: SmolLM2-135M-Instruct in NF4 under ZeRO-3, the method's
own defaults, its own learning rate times --boost since the run is short. Runs that are in
benchmarks/results/learn.json already are not repeated unless --again is given. Prints the table
and writes it to docs/learning.md. Exit 1 when the held-out loss of any method did not fall.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from bigpeft.methods import methods

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "learn.json"
PAGE = HERE.parent / "docs" / "learning.md"
SHIPPED = HERE.parent / "bigpeft" / "cli" / "measured.json"
SHOWN = {
    "eval_loss_before": "held-out loss before",
    "eval_loss_after": "held-out loss after",
    "accuracy_after": "held-out accuracy after",
    "seconds_per_step": "seconds per step",
    "cpu_seconds": "CPU seconds of the run",
}
MEASURED = [*SHOWN, "accuracy_before", "peak_memory_bytes"]
OVERRIDES = [
    "batch.global_size=8",
    "train.evaluate_every=null",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=1",
    "checkpoint.every=null",
]
LAUNCH = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "1",
    "LOCAL_WORLD_SIZE": "1",
    "MASTER_ADDR": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
}
Run = dict[str, Any]


def run(name: str, seed: int, options: argparse.Namespace, port: int) -> Run:
    """Train once; returns its figures."""
    rate = methods()[name].learning_rate
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "launch/train.py", "--recipe", "recipes/quickstart.yaml"]
        command += [
            *OVERRIDES,
            f"model.name={options.model}",
            f"method={{name: {name}}}",
            f"optimizer.learning_rate={rate * options.boost}",
            f"train.steps={options.steps}",
            f"eval.limit={options.held_out}",
            f"run.folder={folder}",
            f"run.seed={seed}",
        ]
        environment = {**os.environ, **LAUNCH, "MASTER_PORT": str(port)}
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            _, status, used = os.wait4(process.pid, 0)
            log.seek(0)
            if status:
                raise RuntimeError(f"{name}:\n{log.read()[-3000:]}")
        summary = json.loads((Path(folder) / "summary.json").read_text())
        rows = map(json.loads, (Path(folder) / "metrics.jsonl").read_text().splitlines())
        seconds = [row["seconds"] for row in rows]
    return {
        "method": name,
        "seed": seed,
        "learning_rate": rate,
        "trainable": summary["trainable_parameters"],
        "seconds_per_step": statistics.median(seconds),
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_memory_bytes": max(summary["peak_memory_bytes"]),
        **{key: summary[key] for key in sorted(summary) if key.startswith(("eval_", "accuracy_"))},
    }


def medians(runs: list[Run]) -> dict[str, Run]:
    """Method → medians of its runs, the seeds it was run with, and what all its runs share."""
    found: dict[str, Run] = {}
    for name in sorted({r["method"] for r in runs}):
        mine = [r for r in runs if r["method"] == name]
        found[name] = {key: statistics.median(r[key] for r in mine) for key in MEASURED}
        found[name] |= {key: mine[0][key] for key in ("trainable", "learning_rate")}
        found[name]["seeds"] = " ".join(str(r["seed"]) for r in mine)
    return found


def page(figures: dict[str, Run], options: argparse.Namespace) -> str:
    """docs/learning.md."""
    lines = [
        "# What every method learns in a short run",
        "",
        f"SmolLM2-135M-Instruct in NF4 under ZeRO-3, fp32: {options.steps} steps of 8 rows of the "
        f"quickstart task, {options.held_out} held-out rows, medians of the seeds that the table "
        "names. Every method has its own defaults on its default targets "
        f"and its own learning rate × {options.boost:g}, since the run is short. It shows that "
        "each learns and what that costs, not which one is best: that takes longer runs and a "
        "search. Each run has one CPU core; two run at once, so seconds per step vary. CPU seconds "
        "are those of the whole run with loading and two evaluations. Written by `python "
        "benchmarks/learn.py`; every run is in benchmarks/results/learn.json.",
        "",
        "| method | family | seeds | trained numbers | learning rate | held-out loss before | "
        "after | accuracy before | after | s / step | CPU s | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, f in figures.items():
        lines.append(
            f"| {name} | {methods()[name].family} | {f['seeds']} | {f['trainable']:,} | "
            f"{f['learning_rate'] * options.boost:g} | {f['eval_loss_before']:.3f} | "
            f"{f['eval_loss_after']:.3f} | {f['accuracy_before']:.2f} | "
            f"{f['accuracy_after']:.2f} | {f['seconds_per_step']:.1f} | "
            f"{f['cpu_seconds']:.0f} | {f['peak_memory_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines) + "\n"


def write(runs: list[Run], options: argparse.Namespace) -> None:
    """The runs, the page, and what `bigpeft methods NAME` shows."""
    figures = medians(runs)
    shipped = {
        name: {label: round(f[key], 3) for key, label in SHOWN.items()}
        for name, f in figures.items()
    }
    RESULTS.write_text(json.dumps(runs, indent=1) + "\n")
    PAGE.write_text(page(figures, options))
    SHIPPED.write_text(json.dumps(shipped, indent=1) + "\n")


def main() -> None:
    """Run what is missing, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--methods", nargs="+", default=sorted(methods()))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--boost", type=float, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="repeat runs that are recorded")
    options = parser.parse_args()
    runs: list[Run] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    wanted = [(name, seed) for seed in options.seeds for name in options.methods]
    if options.again:
        runs = [r for r in runs if (r["method"], r["seed"]) not in wanted]
    known = {(r["method"], r["seed"]) for r in runs}
    missing = [pair for pair in wanted if pair not in known]
    with ThreadPoolExecutor(options.workers) as pool:
        jobs = [pool.submit(run, *pair, options, 29600 + i) for i, pair in enumerate(missing)]
        for job in as_completed(jobs):
            last = job.result()
            runs.append(last)
            runs.sort(key=lambda r: (r["method"], r["seed"]))
            write(runs, options)
            print(
                f"{last['method']}, seed {last['seed']}: {last['eval_loss_before']:.3f} → "
                f"{last['eval_loss_after']:.3f}, {last['seconds_per_step']:.1f} s per step"
            )
    write(runs, options)
    worse = {r["method"] for r in runs if r["eval_loss_after"] >= r["eval_loss_before"]}
    sys.exit(f"no lower held-out loss: {', '.join(sorted(worse))}" if worse else 0)


if __name__ == "__main__":
    main()
