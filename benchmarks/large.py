"""The large recipes at full width: every run of launch/train.py with two layers and random weights.

    python benchmarks/large.py [NAME ...] [--steps 2] [--length 64] [--memory GIB]

One recipe after another, on two CPU ranks over gloo: the recipe as it ships but for `OVERRIDES`.
Each run goes through bigpeft.cli.train, from the rows to the saved adapter; bytes are counted as
benchmarks/plan.py counts them, at malloc, and stand beside what the run itself planned. Where a
recipe needs more than `--memory` with its whole vocabulary it is run with a smaller one, layers as
wide as ever; where that is too much, too, it is left out by name. Results of recipes that were not
asked for stay in benchmarks/results/large.json.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from alive import (
    PASSING,
    Alive,
    counted_at_malloc,
    held_by_kind,
    mark_kinds,
    passing_kinds,
    watched_verbs,
)
from ranks import launch_ranks, resident

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "large.json"
RECIPES = {
    path.stem: path
    for path in sorted(Path("recipes").glob("*.yaml"))
    if re.search(r"\d+b\b", path.stem)
}
RANKS = 2
LIBRARIES = 1 << 30  # of each rank, beside its tensors
SMALL_VOCABULARY = 16384
SHAPES = Path("bigpeft/plan/shapes")
OVERRIDES = [
    "model.layers=2",
    "model.random=true",
    "model.tokenizer=recipes/data/debug/tokenizer",
    "data.path=recipes/data/debug/train.jsonl",
    f"batch={{global_size: {RANKS}, micro_size: 1}}",
    "train.epochs=null",
]
KIND_BOUND, PEAK_BOUND = 0.05, 0.10


def overrides(path: Path, options: argparse.Namespace, vocabulary: int | None) -> list[str]:
    """What a run here changes of the recipe."""
    changed = [*OVERRIDES, f"train.steps={options.steps}", f"data.max_length={options.length}"]
    if vocabulary is None:
        return changed
    config = shape_of(path) | {"vocab_size": vocabulary}
    own = {key: value for key, value in config.items() if not key.endswith("token_id")}
    return [*changed, "model.name=null", f"model.config={json.dumps(own)}"]


def shape_of(path: Path) -> dict[str, Any]:
    """The config.json of the recipe's model."""
    name = yaml.safe_load(path.read_text())["model"]["name"]
    return json.loads((SHAPES / name / "config.json").read_text())


def planned_peak(path: Path, changed: list[str]) -> int:
    """Bytes that the plan gives one rank."""
    from bigpeft.plan.forecast import forecast_of
    from bigpeft.plan.make import outline
    from bigpeft.recipe import load_recipe
    from bigpeft.world import World

    return forecast_of(
        outline(load_recipe(path, changed), World(size=RANKS, local_size=RANKS))
    ).peak


def run_side(name: str, changed: list[str], out: Path) -> None:
    """One rank of one recipe's run, with the story's own verbs watched."""
    from bigpeft.cli.train import main
    from bigpeft.plan.forecast import forecast_of
    from bigpeft.train import run as story

    mark_kinds()
    found: dict[str, Any] = {"kinds": {}, "steps": []}
    load, step = story.load_backbone, story.train_step
    plans: list[Any] = []
    watches: list[Alive] = []

    def watched_load(plan: Any, *rest: Any) -> Any:
        forecast = forecast_of(plan)
        found["planned"], found["offload"] = forecast.per_rank, forecast.setting.offload
        plans.append(plan)
        watches.append(Alive())
        started = time.monotonic()
        with watches[0].phase("load"):
            backbone = load(plan, *rest)
        found["load_seconds"] = time.monotonic() - started
        return backbone

    def watched_step(engine: Any, *rest: Any) -> Any:
        alive = watches[0]
        found.setdefault("load_peak", alive.peaks.pop("load", 0))
        with watched_verbs(engine, alive):
            record = step(engine, *rest)
        found["kinds"] = held_by_kind(engine, plans[0])
        found["steps"].append(dict(alive.peaks))
        found["at_peak"] = passing_kinds(found["planned"], alive, alive.now(), found["kinds"])
        alive.forget("forward", "backward", "step")
        return record

    story.load_backbone, story.train_step = watched_load, watched_step
    folder = out / "run"
    code = main(["--recipe", str(RECIPES[name]), *changed, f"run.folder={folder}"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found |= {
        "code": code,
        "losses": [row["loss"] for row in rows],
        "grad_norms": [row["grad_norm"] for row in rows],
        "step_seconds": [row["seconds"] for row in rows],
        "resident_peak": resident("VmHWM"),
    }
    (out / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


def judged(ranks: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Worst rank of each figure, and whether everything is within its bound."""
    first = ranks[0]
    planned = first["planned"]
    kinds = {
        kind: {"measured": max(rank["kinds"][kind] for rank in ranks), "planned": bytes_}
        for kind, bytes_ in planned["step"].items()
        if kind in first["kinds"] and not (first["offload"] and kind in ("optimizer", "gradients"))
    } | {kind: pair for kind, pair in first["at_peak"].items() if kind in PASSING}
    phases = {
        phase: {
            "measured": max(
                rank["load_peak"] if phase == "load" else max(s[phase] for s in rank["steps"])
                for rank in ranks
            ),
            "planned": sum(parts.values()),
        }
        for phase, parts in planned.items()
    }
    peak = {side: max(p[side] for p in phases.values()) for side in ("measured", "planned")}
    error = max(abs(k["planned"] / k["measured"] - 1) for k in kinds.values() if k["measured"])
    losses = first["losses"]
    ratio = peak["planned"] / peak["measured"]
    return {
        "losses": losses,
        "grad_norms": first["grad_norms"],
        "seconds": {"all": seconds, "load": first["load_seconds"], "steps": first["step_seconds"]},
        "kinds": kinds,
        "phases": phases,
        "steps": [rank["steps"] for rank in ranks],
        "peak": peak,
        "resident_peaks": [rank["resident_peak"] for rank in ranks],
        "largest_error_of_a_kind": error,
        "peak_ratio": ratio,
        "good": all(map(math.isfinite, losses))
        and error <= KIND_BOUND
        and abs(ratio - 1) <= PEAK_BOUND,
    }


def launch(name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """One recipe, or None where there is no memory for it."""
    path = RECIPES[name]
    free = min(psutil.virtual_memory().available, options.memory * 2**30)
    needs: list[float] = []
    for vocabulary in (None, SMALL_VOCABULARY):
        changed = overrides(path, options, vocabulary)
        needs.append(RANKS * (planned_peak(path, changed) + LIBRARIES))
        if needs[-1] > free:
            continue
        started = time.monotonic()
        ranks = launch_ranks(HERE / "large.py", name, RANKS, "--changed", json.dumps(changed))
        kept = vocabulary or shape_of(path)["vocab_size"]
        return {"recipe": name, "vocabulary": kept} | judged(ranks, time.monotonic() - started)
    told = " or, with a small vocabulary, ".join(f"{size / 2**30:.1f}" for size in needs)
    print(f"{name}: not run, needs {told} GiB of {free / 2**30:.1f}")
    return None


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: one line for each recipe."""
    lines = [
        "| recipe | vocabulary | losses | load s | step s | largest error of a kind | peak GB "
        "| planned | ratio | in |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        phase = max(row["phases"], key=lambda phase: row["phases"][phase]["measured"])
        losses = ", ".join(f"{loss:.3f}" for loss in row["losses"])
        peak, seconds = row["peak"], row["seconds"]
        lines.append(
            f"| {row['recipe']} | {row['vocabulary']:,} | {losses} "
            f"| {seconds['load']:.0f} | {seconds['steps'][-1]:.0f} "
            f"| {row['largest_error_of_a_kind']:.2%} | {peak['measured'] / 1e9:.2f} "
            f"| {peak['planned'] / 1e9:.2f} | {row['peak_ratio']:.3f} | {phase} |"
        )
    return lines


def main() -> None:
    """Start the runs, or be one rank of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="recipes without .yaml; default: all large ones")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--length", type=int, default=64, help="tokens per row")
    parser.add_argument("--memory", type=float, default=math.inf, help="GiB of all ranks together")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--changed", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.changed, options.out)
        return
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    known = {row["recipe"]: row for row in rows}
    asked = options.names or list(RECIPES)
    with counted_at_malloc():
        for name in asked:
            found = launch(name, options)
            if found is not None:
                known[name] = found
                rows = [known[name] for name in RECIPES if name in known]
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table([known[name] for name in RECIPES if name in known])))
    if missed := [name for name in asked if not known.get(name, {}).get("good")]:
        sys.exit(f"beyond the bounds, or not run: {', '.join(missed)}")


if __name__ == "__main__":
    main()
