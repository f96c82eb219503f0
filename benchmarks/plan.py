"""The plan against real runs: bytes by kind, and the peak of every phase.

    python benchmarks/plan.py [--out FILE] [--worlds 1,2,3,4]

Every configuration is a real engine on real ranks over gloo. Kinds are counted where DeepSpeed and
the model keep them, activations where autograd saves them in the model's own forward pass; peaks
are counted at malloc itself (alive.c, compiled here), so what libraries keep and the kernel has not
taken back does not blur them. Loading is done three times and the largest counts: how far a rank
reads ahead while it sends is left to threads.

Worlds that are not measured now keep their rows in FILE.
"""

import argparse
import gc
import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from alive import Alive, counted_at_malloc, held_by_kind, mark_kinds, passing_kinds, watched_verbs
from ranks import launch_ranks

from bigpeft.plan import make_plan
from bigpeft.plan.activations import counted
from bigpeft.plan.forecast import forecast_of
from bigpeft.recipe import Recipe
from bigpeft.train.adapters import Adapters
from bigpeft.train.backbone import load_backbone, open_backbone
from bigpeft.train.engine import build_engine, join_processes
from bigpeft.train.step import train_step
from bigpeft.world import read_world

SHAPE = {
    "model_type": "llama",
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
BASE = {
    "stage": 3,
    "group": "world",
    "method": "lora",
    "micro": 1,
    "checkpointing": False,
    "precision": "fp32",
    "layers": 8,
    "hpz": 1,
}
_ALWAYS = ("stage", "method")
ACCUMULATION = 2
LOADS = 3
CONFIGURATIONS: dict[int, list[dict[str, Any]]] = {
    1: [
        {"stage": 0},
        {"stage": 0, "checkpointing": True, "micro": 4},
        {"stage": 3, "method": "dora"},
        {"stage": 2, "precision": "bf16"},
    ],
    2: [
        {},
        {"checkpointing": True},
        {"micro": 4, "checkpointing": True},
        {"method": "ssb"},
        {"method": "dora", "micro": 2},
        {"stage": 2},
        {"stage": 1, "micro": 2},
        {"precision": "bf16", "checkpointing": True},
        {"group": 1},
        {"method": "vera"},
    ],
    3: [
        {},
        {"checkpointing": True, "method": "dora"},
        {"group": 1, "micro": 2},
        {"stage": 2},
    ],
    4: [
        {},
        {"group": 2, "checkpointing": True},
        {"group": 1, "micro": 2},
        {"stage": 2, "checkpointing": True},
        {"hpz": 2},
    ],
}


def recipe(wanted: dict[str, Any], world: int) -> Recipe:
    """Random weights, rows of 256 tokens."""
    config, micro = SHAPE | {"num_hidden_layers": wanted["layers"]}, wanted["micro"]
    values = {
        "model": {"config": config, "random": True, "weights": "nf4"},
        "method": {"name": wanted["method"]},
        "data": {"path": "none", "max_length": 256},
        "batch": {"global_size": ACCUMULATION * micro * world, "micro_size": micro},
        "run": {"folder": "none"},
        "train": {
            "steps": 2,
            "precision": wanted["precision"],
            "activation_checkpointing": wanted["checkpointing"],
        },
        "sharding": {"fragment": fragment(wanted), "group": wanted["group"]},
    }
    return Recipe.model_validate(values)


def fragment(wanted: dict[str, Any]) -> str:
    """A shipped one, or one of its own for hpZ, whose nodes are those of this machine's ranks."""
    name = f"zero{wanted['stage']}"
    if wanted["hpz"] == 1:
        return name
    content = json.loads(Path(f"ds_configs/{name}.json").read_text())
    content["zero_optimization"]["zero_hpz_partition_size"] = wanted["hpz"]
    path = Path(tempfile.gettempdir()) / f"hpz-{os.environ.get('RANK', 0)}.json"
    path.write_text(json.dumps(content))
    return str(path)


def measure(wanted: dict[str, Any]) -> dict[str, Any]:
    """One configuration, this rank's bytes."""
    world = read_world()
    plan = make_plan(recipe(wanted, world.size), world)
    forecast = forecast_of(plan)
    torch.manual_seed(0)
    alive = Alive()
    for _ in range(LOADS - 1):
        passing = make_plan(plan.recipe, world)
        with alive.phase("load"):
            load_backbone(passing, open_backbone(passing, print), torch.device("cpu"))
        del passing
        gc.collect()
    with alive.phase("load"):
        backbone = load_backbone(plan, open_backbone(plan, print), torch.device("cpu"))
    engine = build_engine(plan.model, backbone.trained, plan)
    adapters = Adapters(plan.seated, engine, 3)
    for step in (1, 2, 3):
        batches = [_rows(plan.recipe) for _ in range(plan.accumulation_steps)]
        with watched_verbs(engine, alive):
            train_step(engine, adapters, batches, step)
        if step == 1:
            alive.forget("forward", "backward", "step")
    gc.collect()
    held = held_by_kind(engine, plan)
    between = alive.now()
    held["activations"] = _activations(engine, plan)
    return {
        "wanted": wanted,
        "peaks": alive.peaks | {"between": between},
        "at_peak": passing_kinds(forecast.per_rank, alive, between, held),
        "kinds": held,
        "planned": forecast.per_rank,
    }


def _activations(engine: Any, plan: Any) -> int:
    """Bytes that autograd saves in the decoder, of one micro-batch that nothing learns from."""
    decoder = plan.model.get_decoder()
    with ExitStack() as stack:
        entered: list[Any] = []

        def enter(*_: Any) -> None:
            entered.append(stack.enter_context(counted(plan.model)))

        begin = decoder.register_forward_pre_hook(enter)
        end = decoder.register_forward_hook(lambda *_: stack.close())
        with torch.enable_grad():
            engine(**{k: v for k, v in _rows(plan.recipe).items() if k != "labels"})
        begin.remove()
        end.remove()
    return entered[0].total


def _rows(recipe: Recipe) -> dict[str, torch.Tensor]:
    shape = (recipe.batch.micro_size, recipe.data.max_length)
    ids = torch.randint(0, SHAPE["vocab_size"], shape)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def run_side(world: int, out: Path) -> None:
    """All configurations of this world size, on every rank."""
    mark_kinds()
    join_processes(read_world())
    results = []
    for precision in ("fp32", "bf16"):  # what libraries keep from their first use on
        measure(BASE | {"precision": precision, "layers": 2})
    for wanted in CONFIGURATIONS[world]:
        results.append(measure(BASE | wanted))
        dist.barrier()
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(results))


def main() -> None:
    """Start the ranks, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side")
    parser.add_argument("--local_rank")
    parser.add_argument("--worlds", default="1,2,3,4")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/plan.json"))
    asked = parser.parse_args()
    if asked.side:
        run_side(int(asked.side), asked.out)
        return
    worlds = [int(world) for world in asked.worlds.split(",")]
    with counted_at_malloc():
        found = {w: launch_ranks(Path(__file__).resolve(), str(w), w) for w in worlds}
    known = json.loads(asked.out.read_text()) if asked.out.exists() else []
    rows = [row for row in known if row["world"] not in worlds]
    rows += [row for world, ranks in found.items() for row in _of_first_rank(world, ranks)]
    rows.sort(key=lambda row: row["world"])
    asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n".join(table(rows)))


def _of_first_rank(world: int, ranks: list[Any]) -> list[dict[str, Any]]:
    return [row | {"world": world} for row in ranks[0]]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown: MB planned and measured of what stays, by kind together, and of the peak.

    The largest error is over all kinds: those that stay, and those that are there at the peak.
    """
    lines = [
        "| ranks | configuration | largest error of a kind | held MB | planned | peak MB | planned "
        "| ratio | in |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        pairs = {k: (_planned(row, k), n) for k, n in row["kinds"].items() if n}
        pairs |= {k: (pair["planned"], pair["measured"]) for k, pair in row["at_peak"].items()}
        error = max(abs(plan / n - 1) for plan, n in pairs.values())
        kept = [pair for kind, pair in pairs.items() if kind in row["planned"]["step"]]
        held, planned_held = (sum(pair[i] for pair in kept) for i in (1, 0))
        sums = {phase: sum(kinds.values()) for phase, kinds in row["planned"].items()}
        peaks = {phase: row["peaks"][phase] for phase in sums}
        peak, planned = max(peaks.values()), max(sums.values())
        phase = max(peaks, key=lambda phase: peaks[phase])
        wanted = {k: v for k, v in row["wanted"].items() if v != BASE[k] or k in _ALWAYS}
        said = ", ".join(f"{k} {v}" if v is not True else k for k, v in wanted.items())
        lines.append(
            f"| {row['world']} | {said} | {error:.2%} "
            f"| {held / 1e6:.1f} | {planned_held / 1e6:.1f} | {peak / 1e6:.1f} "
            f"| {planned / 1e6:.1f} | {planned / peak:.3f} | {phase} |"
        )
    return lines


def _planned(row: dict[str, Any], kind: str) -> int:
    phase = "forward" if kind == "activations" else "step"
    return row["planned"][phase][kind]


if __name__ == "__main__":
    main()
