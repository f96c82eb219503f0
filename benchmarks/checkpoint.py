"""Checkpoints of adapters with hundreds of megabytes of state, on all ranks of one machine.

    python benchmarks/checkpoint.py [--repeats 5] [--ranks 2] [--state 300] [--resume 1000]

One launch trains a few steps between saves: at once, behind the training, and copying the same
files with fsync, in turn. Another one resumes a larger state. Prints medians of the worst rank and
writes benchmarks/results/checkpoint.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ranks import launch_ranks, resident
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
WIDTH = 2048
LAYERS = {"saves": 4, "resume": 8}
SIDES = ("saves", "resume")


def recipe(state_mb: float, layers: int, folder: Path) -> Any:
    """LoRA on all linears of a random Llama, of the rank that makes so many MB of state."""
    from bigpeft.recipe import Recipe

    narrow, wide = WIDTH // 4, 2 * WIDTH
    linears = [(WIDTH, WIDTH)] * 2 + [(WIDTH, narrow)] * 2 + [(WIDTH, wide)] * 3
    per_rank = 12 * layers * sum(sum(shape) for shape in linears)
    config = {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 512,
    }
    return Recipe.model_validate(
        {
            "model": {"config": config, "random": True},
            "method": {"name": "lora", "rank": round(state_mb * 1e6 / per_rank)},
            "data": {"path": "unused"},
            "batch": {"global_size": 2},
            "run": {"folder": str(folder)},
            "train": {"steps": 1000, "precision": "fp32"},
            "checkpoint": {"keep": 1},
        }
    )


class Training:
    """A run whose rows are random tokens."""

    def __init__(self, state_mb: float, layers: int, folder: Path) -> None:
        from bigpeft.plan import make_plan
        from bigpeft.train.adapters import Adapters
        from bigpeft.train.backbone import load_backbone, open_backbone
        from bigpeft.train.engine import build_engine, join_processes
        from bigpeft.world import read_world

        world = read_world()
        self.folder = folder
        self.plan = make_plan(recipe(state_mb, layers, folder), world)
        device = join_processes(world)
        self.backbone = load_backbone(self.plan, open_backbone(self.plan, print), device)
        self.engine = build_engine(self.plan.model, self.backbone.trained, self.plan)
        self.adapters = Adapters(self.plan.seated, self.engine, 1000)
        generator = torch.Generator().manual_seed(world.rank)
        tokens = torch.randint(3, 512, (1, 128), generator=generator)
        self.batch = {
            "input_ids": tokens,
            "attention_mask": torch.ones_like(tokens),
            "labels": tokens,
        }
        self.steps = 0

    def step(self) -> float:
        """Seconds of one optimizer step."""
        from bigpeft.train.step import train_step

        started = time.monotonic()
        batches = [dict(self.batch) for _ in range(self.plan.accumulation_steps)]
        self.steps += 1
        train_step(self.engine, self.adapters, batches, self.steps)
        return time.monotonic() - started

    def saver(self, asynchronous: bool, found: Path | None = None) -> Any:
        """Of checkpoints at once or behind the training."""
        from bigpeft.train.saving import Saver

        root = self.folder / ("behind" if asynchronous else "at_once")
        wanted = self.plan.recipe.checkpoint.model_copy(update={"async": asynchronous})
        changed = self.plan.recipe.model_copy(update={"checkpoint": wanted})
        plan = replace(self.plan, recipe=changed)
        return Saver(root, plan, self.engine, self.backbone, found, print)


def saves(state_mb: float, repeats: int, folder: Path) -> dict[str, Any]:
    """Steps and saves in turn."""
    import torch.distributed as dist

    training = Training(state_mb, LAYERS["saves"], folder)
    savers = {way: training.saver(way) for way in (False, True)}
    times: dict[str, list[float]] = {key: [] for key in ("step", "at_once", "stall", "busy", "cp")}
    for saver in savers.values():  # the first copies' memory is made here
        training.step()
        saver.save(training.steps, None)
        saver._writer.wait()
    for _ in range(repeats):
        times["step"] += [training.step() for _ in range(3)]
        times["at_once"].append(_timed(lambda: savers[False].save(training.steps, None)))
        times["step"].append(training.step())
        times["stall"].append(_timed(lambda: savers[True].save(training.steps, None)))
        times["busy"].append(training.step())
        savers[True]._writer.wait()
        dist.barrier()
        times["cp"].append(_timed(lambda: _copy_my_files(_newest(folder), folder / "copy")))
        dist.barrier()
    numbers = sum(item.parameter.ds_numel for item in training.backbone.trained)
    size = sum(path.stat().st_size for path in _newest(folder).iterdir())
    return {**times, "state_bytes": 12 * numbers, "disk_bytes": size}


def _newest(folder: Path) -> Path:
    return folder / "at_once" / (folder / "at_once/latest").read_text().strip()


def _timed(work: Any) -> float:
    """Seconds, from one barrier until the last rank is done."""
    import torch.distributed as dist

    dist.barrier()
    started = time.monotonic()
    work()
    mine = time.monotonic() - started
    dist.barrier()
    return mine


def _copy_my_files(checkpoint: Path, out: Path) -> None:
    """Every rank copies what it wrote, as cp does, and waits for the disk."""
    import torch.distributed as dist

    out.mkdir(exist_ok=True)
    for path in checkpoint.glob(f"shard-{dist.get_rank() + 1:05d}*"):
        copy = out / path.name
        copy.unlink(missing_ok=True)
        shutil.copyfile(path, copy)
        with copy.open("rb") as file:
            os.fsync(file.fileno())


def resume(state_mb: float, folder: Path) -> dict[str, Any]:
    """Peak memory of putting a state back, over what was there and what stays."""
    training = Training(state_mb, LAYERS["resume"], folder)
    training.step()
    saver = training.saver(False)
    saver.save(training.steps, None)
    saver.finish()
    from bigpeft.checkpoint import training_state

    fresh = training_state(training.engine)
    fresh._adam.state.clear()  # as in a process that has just begun
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.monotonic()
    training.saver(False, _newest(folder))
    seconds = time.monotonic() - started
    shapes = [item.parameter.ds_numel for item in training.backbone.trained]
    return {
        "seconds": seconds,
        "peak_bytes": resident("VmHWM") - before,
        "slice_bytes": 12 * sum(shapes) // training.plan.world.size,
        "largest_tensor_bytes": 4 * max(shapes),
        "state_bytes": 12 * sum(shapes),
    }


def measure(options: argparse.Namespace) -> None:
    """One side on this rank; the result is left in a file."""
    import torch.distributed as dist

    shared = Path(options.shared)
    if options.side == "saves":
        result = saves(options.state, options.repeats, shared)
    else:
        result = resume(options.resume, shared)
    (options.out / f"{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    """Launch both sides, take medians, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--state", type=float, default=300, help="MB of state that is saved")
    parser.add_argument("--resume", type=float, default=1000, help="MB of state that is resumed")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--shared", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options)
        return
    results = {}
    for side in SIDES:
        with tempfile.TemporaryDirectory() as shared:
            arguments = ["--repeats", options.repeats, "--state", options.state]
            arguments += ["--resume", options.resume, "--shared", shared]
            script = Path(__file__).resolve()
            results[side] = launch_ranks(script, side, options.ranks, *map(str, arguments))
    report(results, options.ranks)


def report(results: dict[str, list[dict[str, Any]]], ranks: int) -> None:
    """The table and the file."""
    ours, back = results["saves"], results["resume"]
    median = {
        key: max(statistics.median(rank[key]) for rank in ours)
        for key in ("step", "at_once", "stall", "busy", "cp")
    }
    table = Table("figure", "measured", "aim")
    seconds = {
        "step": "a step without a save, s",
        "at_once": "a save at once, s",
        "cp": "cp + fsync of its files, s",
        "stall": "stall of a save behind the training, s",
        "busy": "the step beside it, s",
    }
    for key, text in seconds.items():
        table.add_row(text, f"{median[key]:.3f}", "")
    ratios = {
        "stall / save at once": (median["stall"] / median["at_once"], 0.05),
        "stall / step": (median["stall"] / median["step"], 0.1),
        "save at once / cp": (median["at_once"] / median["cp"], 1.5),
        "disk / (fp32 + two moments)": (ours[0]["disk_bytes"] / ours[0]["state_bytes"], 1.01),
        "resume: peak / (slice + 2 tensors)": (
            max(r["peak_bytes"] / (r["slice_bytes"] + 2 * r["largest_tensor_bytes"]) for r in back),
            1.0,
        ),
    }
    for text, (ratio, aim) in ratios.items():
        table.add_row(text, f"{ratio:.3f}", f"≤ {aim}")
    title = f"{ours[0]['state_bytes'] / 1e6:.0f} MB of state saved, "
    title += f"{back[0]['state_bytes'] / 1e6:.0f} MB resumed, {ranks} ranks"
    console = Console(width=100)
    console.print(title)
    console.print(table)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    ratios_only = {text: ratio for text, (ratio, _) in ratios.items()}
    result = {"machine": machine, "medians": median, "ratios": ratios_only, "runs": results}
    (HERE / "results" / "checkpoint.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
