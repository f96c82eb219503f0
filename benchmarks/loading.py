"""Loading a 4-bit model on several ranks: the stock stack, bigpeft from dense files, from packed.

    python benchmarks/loading.py [--repeats 3] [--ranks 2] [--layers 2] [--folder DIR]

Writes a dense bf16 checkpoint of 70B-shaped layers once, then launches the sides in turn so that
they share the machine's moods. Prints medians of the worst rank and writes
benchmarks/results/loading.json. Bytes are counted at bigpeft's reader; the stock stack maps files
whole on every rank, which no counter of the kernel shows.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ranks import launch_ranks, resident
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SIDES = ("stock", "dense", "packed")
FIGURES = {
    "seconds": ("wall, seconds", 1),
    "peak_bytes": ("peak memory of loading per rank, MB", 1e6),
    "bytes_read": ("bytes read by all ranks, MB", 1e6),
}


def stock(folder: Path) -> dict[str, Any]:
    """transformers and bitsandbytes, as every rank of a DeepSpeed job loads today."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=config
    )
    return {"tensors": sum(1 for _ in model.parameters())}


def ours(folder: Path) -> dict[str, Any]:
    """LoRA over the packed backbone, cut by ZeRO-3."""
    import torch

    from bigpeft.plan import make_plan
    from bigpeft.recipe import Recipe
    from bigpeft.train.backbone import load_backbone, open_backbone
    from bigpeft.world import read_world

    world = read_world()
    recipe = Recipe.model_validate(
        {
            "model": {"name": str(folder)},
            "method": {"name": "lora", "rank": 8},
            "data": {"path": "unused"},
            "batch": {"global_size": world.size},
            "run": {"folder": "unused"},
            "train": {"steps": 1, "precision": "bf16"},
        }
    )
    plan = make_plan(recipe, world)
    source = open_backbone(plan, print)
    backbone = load_backbone(plan, source, torch.device("cpu"))
    kept = [getattr(p, "ds_tensor", p) for p in plan.model.parameters()]
    largest = max(
        source.dtype(name).itemsize * torch.Size(shape).numel()
        for name, shape in source.shapes().items()
    )
    return {
        "bytes_read": source.bytes_read,
        "shard_bytes": sum(p.numel() * p.element_size() for p in kept),
        "largest_tensor_bytes": largest,
        "base": backbone.base.short,
    }


def measure(side: str, folder: Path, out: Path) -> None:
    """One rank's part; writes a JSON file."""
    import torch.distributed as dist

    from bigpeft.train.engine import join_processes
    from bigpeft.world import read_world

    join_processes(read_world())
    import bitsandbytes  # noqa: F401  before the memory is measured

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    dist.barrier()
    started = time.monotonic()
    found = (stock if side == "stock" else ours)(folder)
    dist.barrier()
    found |= {"seconds": time.monotonic() - started, "peak_bytes": resident("VmHWM") - before}
    (out / f"{dist.get_rank()}.json").write_text(json.dumps(found))


def launch(side: str, folder: Path, ranks: int) -> dict[str, Any]:
    """All ranks of one side: the worst time and memory, the bytes of all together."""
    found = launch_ranks(HERE / "loading.py", side, ranks, "--folder", str(folder))
    worst = {key: max(rank[key] for rank in found) for key in ("seconds", "peak_bytes")}
    if side != "stock":
        worst["bytes_read"] = sum(rank["bytes_read"] for rank in found)
        worst |= {key: found[0][key] for key in ("shard_bytes", "largest_tensor_bytes", "base")}
    return worst


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to forget the files, so that the next read comes from the disk."""
    for path in folder.glob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def plain_read(path: Path, start: int, nbytes: int) -> Any:
    """Bytes of a file in a new tensor, by read calls."""
    import torch

    buffer, done = torch.empty(nbytes, dtype=torch.uint8), 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while done < nbytes:
            done += file.readinto(buffer.numpy().data[done:])
    return buffer


def reads(folder: Path, repeats: int) -> dict[str, float]:
    """GB/s of one process that reads and hashes every tensor: mapped or plain, cold or warm."""
    from bigpeft.backbone.sources.files import read
    from bigpeft.backbone.sources.safetensors import stored_tensors
    from bigpeft.backbone.sources.source import digest

    path = folder / "model.safetensors"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    offsets = {name: entry["data_offsets"] for name, entry in entries.items()}
    total = sum(end - start for start, end in offsets.values())

    def mapped() -> None:
        for name, stored in stored_tensors(folder).items():
            digest(read(stored, name))

    def plain() -> None:
        for start, end in offsets.values():
            digest(plain_read(path, 8 + length + start, end - start))

    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for label, way in (("mapped", mapped), ("plain", plain)):
            for state in ("cold", "warm"):
                if state == "cold":
                    drop_from_cache(folder)
                started = time.monotonic()
                way()
                found.setdefault(f"{label} {state}", []).append(
                    total / 1e9 / (time.monotonic() - started)
                )
    return {key: statistics.median(values) for key, values in found.items()}


def main() -> None:
    """Alternate the sides, take medians, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the models lie; default: a new one")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        measure(options.side, options.folder, options.out)
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(options, options.folder or Path(temporary))


def compare(options: argparse.Namespace, place: Path) -> None:
    """Make the models, run all sides, print and write."""
    from big_model import SHAPE, make_model

    dense, packed = place / "dense", place / "packed"
    size = make_model(dense, options.layers)
    if not packed.is_dir():
        subprocess.run(["bigpeft", "quantize", str(dense), str(packed)], check=True)
    folders = {"stock": dense, "dense": dense, "packed": packed}
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side, found in runs.items():
            found.append(launch(side, folders[side], options.ranks))
    medians = {
        side: {key: statistics.median(r[key] for r in found) for key in FIGURES if key in found[0]}
        for side, found in runs.items()
    }
    table = Table(
        f"{size / 1e9:.2f} GB of bf16, {options.ranks} ranks", *SIDES, "dense/stock", "packed/stock"
    )
    for key, (label, unit) in FIGURES.items():
        row = [medians[side].get(key) for side in SIDES]
        ratios = [f"{row[n] / row[0]:.3f}" if row[0] else "" for n in (1, 2)]
        table.add_row(label, *(f"{v / unit:.2f}" if v else "mapped" for v in row), *ratios)
    one = runs["dense"][0]
    bound = one["shard_bytes"] + 3 * one["largest_tensor_bytes"]
    speeds = reads(dense, options.repeats)
    console = Console(width=120)
    console.print(table)
    console.print(
        f"bound of the peak: shard {one['shard_bytes'] / 1e6:.0f} + 3 tensors of "
        f"{one['largest_tensor_bytes'] / 1e6:.0f} = {bound / 1e6:.0f} MB; bytes read over those of "
        f"the dense files: {medians['dense']['bytes_read'] / size:.4f} dense, "
        f"{medians['packed']['bytes_read'] / size:.4f} packed"
    )
    console.print(
        "reading and hashing, GB/s: " + ", ".join(f"{k} {v:.2f}" for k, v in speeds.items())
    )
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {
        "machine": machine,
        "ranks": options.ranks,
        "model": SHAPE | {"num_hidden_layers": options.layers},
        "dense_bytes": size,
        "peak_bound_bytes": bound,
        "medians": medians,
        "reading_gb_per_second": speeds,
        "runs": runs,
    }
    path = HERE / "results" / "loading.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
