"""Merging a LoRA into a dense model: bigpeft, the stock stack, and copying the files.

    python benchmarks/merge.py [--repeats 3] [--layers 2] [--folder DIR]

The model is that of loading.py; the adapter has rank 16 on all linears. Every side reads the files
from the disk, as one does a model that is larger than memory, and again out of the page cache; a
result counts when it is on the disk. Prints medians and writes benchmarks/results/merge.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ranks import resident
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SIDES = ("copy", "stock", "bigpeft")


def make_run(model: Path, run: Path) -> None:
    """A run folder with an adapter that nobody trained: random factors."""
    import torch

    from bigpeft.checkpoint.adapter import VERSION, write_adapter
    from bigpeft.export import export_hf_peft, open_run
    from bigpeft.placement import place
    from bigpeft.plan import bare_model, placement_of
    from bigpeft.recipe import Recipe, dump_recipe

    recipe = Recipe.model_validate(
        {
            "model": {"name": str(model)},
            "method": {"name": "lora", "rank": 16},
            "data": {"path": "unused"},
            "batch": {"global_size": 1},
            "run": {"folder": str(run)},
            "train": {"steps": 1},
        }
    )
    (run / "adapter").mkdir(parents=True)
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    torch.manual_seed(0)
    tensors = {
        f"{seat}.{key}": 0.01 * torch.randn(tensor.shape)
        for seat, method in place(bare_model(recipe), placement_of(recipe)).items()
        for key, tensor in method.state_dict().items()
    }
    described = {"version": VERSION, "method": recipe.method.model_dump(mode="json")}
    write_adapter(run / "adapter", tensors, described)
    export_hf_peft(open_run(run), run / "peft")


def copied(model: Path, run: Path, out: Path) -> None:
    """The least that writing a model of this size can cost."""
    shutil.copytree(model, out)


def by_peft(model: Path, run: Path, out: Path) -> None:
    """peft's own way: the whole model in memory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    PeftModel.from_pretrained(base, run / "peft").merge_and_unload().save_pretrained(out)


def by_bigpeft(model: Path, run: Path, out: Path) -> None:
    """What `bigpeft merge` does."""
    from bigpeft.export import merge, open_run

    merge(open_run(run), out)


def measure(side: str, model: Path, run: Path, out: Path) -> None:
    """One side in this process: prints seconds and bytes of memory that it grew by."""
    if side != "copy":  # libraries are not what is measured
        import peft  # noqa: F401
        import transformers  # noqa: F401

        import bigpeft.export  # noqa: F401
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.monotonic()
    {"copy": copied, "stock": by_peft, "bigpeft": by_bigpeft}[side](model, run, out)
    os.sync()
    seconds = time.monotonic() - started
    print(json.dumps({"seconds": seconds, "peak_bytes": resident("VmHWM") - before}))


def launch(side: str, state: str, model: Path, run: Path) -> dict[str, Any]:
    """One side in a process of its own, the model's files in the page cache (warm) or not."""
    for path in model.glob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if state == "warm":
            subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        command = [sys.executable, str(HERE / "merge.py"), "--side", side]
        command += ["--model", str(model), "--run", str(run), "--out", f"{folder}/out"]
        environment = {"PYTHONWARNINGS": "ignore", **os.environ}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{side} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Alternate the sides, take medians, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the model lies; default: a new one")
    for hidden in ("--model", "--run", "--out"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.model, options.run, options.out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(options, options.folder or Path(temporary))


def compare(options: argparse.Namespace, place: Path) -> None:
    """Make model and adapter, run all sides, print and write."""
    from big_model import SHAPE, make_model

    size = make_model(place / "dense", options.layers)
    shutil.rmtree(place / "run", ignore_errors=True)
    make_run(place / "dense", place / "run")
    cases = [f"{side} {state}" for state in ("cold", "warm") for side in SIDES]
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
    for _ in range(options.repeats):
        for case, found in runs.items():
            found.append(launch(*case.split(), place / "dense", place / "run"))
    medians = {
        case: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for case, found in runs.items()
    }
    title = f"{size / 1e9:.2f} GB of bf16, LoRA of rank 16"
    table = Table(title, *SIDES, "bigpeft/copy", "bigpeft/stock")
    for state in ("cold", "warm"):
        row = [medians[f"{side} {state}"]["seconds"] for side in SIDES]
        ratios = [f"{row[2] / other:.2f}" for other in row[:2]]
        table.add_row(f"seconds, {state}", *(f"{v:.2f}" for v in row), *ratios)
    peaks = [max(medians[f"{side} {s}"]["peak_bytes"] for s in ("cold", "warm")) for side in SIDES]
    table.add_row("peak memory, MB", *(f"{v / 1e6:.0f}" for v in peaks))
    largest = 2 * SHAPE["hidden_size"] * SHAPE["intermediate_size"]
    console = Console(width=110)
    console.print(table)
    console.print(f"bound of the peak: 2 tensors of {largest / 1e6:.0f} MB in bf16 + 300 MB")
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {
        "machine": machine,
        "model": SHAPE | {"num_hidden_layers": options.layers},
        "dense_bytes": size,
        "largest_tensor_bytes": largest,
        "medians": medians,
        "runs": runs,
    }
    (HERE / "results" / "merge.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
