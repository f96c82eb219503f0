"""bigpeft beside the stock stack: loading and LoRA steps of one model under ZeRO-3.

    python benchmarks/compare.py [--repeats 3] [--ranks 2]

Makes a model of random weights once, runs both sides in turn so that they share the machine's
moods, prints a table of medians and writes benchmarks/results/compare.json.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

from ranks import launch_ranks
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
MODEL = {
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
FIGURES = {
    "load_seconds": "load, seconds",
    "load_peak_bytes": "peak memory of loading per rank, MB",
    "packed_bytes_shard": "4-bit codes and statistics kept per rank, MB",
    "packed_bytes_alive": "whole packed weights alive between forward and backward, MB",
    "step_seconds": "LoRA step, seconds",
}


def make_model(folder: Path) -> None:
    """0.3 billion random parameters in bf16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **MODEL)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def run(side: str, model: Path, ranks: int) -> dict[str, float]:
    """One launch; returns the worst rank's figures."""
    found = launch_ranks(HERE / "side.py", side, ranks, "--model", str(model))
    return {key: max(rank[key] for rank in found) for key in found[0]}


def main() -> None:
    """Alternate the sides, take medians, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {"stock": [], "bigpeft": []}
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder))
        for _ in range(options.repeats):
            for side, found in runs.items():
                found.append(run(side, Path(folder), options.ranks))
    medians = {
        side: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for side, found in runs.items()
    }
    table = Table("per rank, median of " + str(options.repeats), "stock", "bigpeft", "ratio")
    for key, label in FIGURES.items():
        one, other = medians["stock"][key], medians["bigpeft"][key]
        shown = [v / 1e6 if key.endswith(("bytes", "shard", "alive")) else v for v in (one, other)]
        table.add_row(label, *(f"{v:.2f}" for v in shown), f"{other / one:.3f}")
    Console(width=110).print(table)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    result = {"machine": machine, "ranks": options.ranks, "model": MODEL, "medians": medians}
    path = HERE / "results" / "compare.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result | {"runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
