"""One side of the comparison, on every rank: load a model, make a few LoRA steps, say what it cost.

Started by compare.py through the DeepSpeed launcher; both sides get the same files, ranks, LoRA
shapes and token ids, fp32 on a CPU and bf16 on an accelerator.
"""

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from ranks import resident
from torch import nn

RANK, ALPHA, ROWS, LENGTH, WARM, TIMED = 8, 16, 4, 128, 2, 5


def batch_of(step: int, vocab: int) -> torch.Tensor:
    """The same ids for both sides, other ones on each rank."""
    generator = torch.Generator().manual_seed(1000 * step + dist.get_rank())
    return torch.randint(3, vocab, (ROWS, LENGTH), generator=generator)


def packed_alive(module: nn.Module, sizes: set[int]) -> int:
    """Bytes of whole packed weights that exist now, found by their length; slices do not count."""
    slices = {s.untyped_storage().data_ptr() for s in slices_of(module)}
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if torch.is_tensor(thing) and thing.dtype == torch.uint8 and thing.numel() in sizes:
            storage = thing.untyped_storage()
            if storage.size() and storage.data_ptr() not in slices:
                found[storage.data_ptr()] = thing.numel()
    return sum(found.values())


def stock(model_folder: Path) -> tuple[Any, set[int], int]:
    """transformers + bitsandbytes + peft + DeepSpeed, as their documentation puts them together."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    model = AutoModelForCausalLM.from_pretrained(
        model_folder,
        dtype=torch.float32,
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        ),
    )
    model.config.use_cache = False
    packed = [p for p in model.parameters() if type(p).__name__ == "Params4bit"]
    sizes, total = {p.numel() for p in packed}, sum(p.numel() for p in packed)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    model.enable_input_require_grads()
    trained = [p for p in model.parameters() if p.requires_grad]
    largest = max(p.numel() for p in trained)
    config = {
        "train_micro_batch_size_per_gpu": ROWS,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": largest,
            "stage3_max_live_parameters": 0,
            "stage3_max_reuse_distance": 0,
        },
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(trained, lr=1e-4), config=config
    )
    return engine, sizes, total


def ours(model_folder: Path) -> tuple[Any, set[int], int]:
    """The same through bigpeft's rooms."""
    from bigpeft.plan import make_plan
    from bigpeft.recipe import Recipe
    from bigpeft.train.backbone import load_backbone
    from bigpeft.train.engine import build_engine
    from bigpeft.world import read_world

    world = read_world()
    recipe = Recipe.model_validate(
        {
            "model": {"name": str(model_folder)},
            "method": {"name": "lora", "rank": RANK, "alpha": ALPHA},
            "data": {"path": "unused"},
            "batch": {"global_size": ROWS * world.size, "micro_size": ROWS},
            "run": {"folder": "unused"},
            "train": {"steps": 1},
        }
    )
    plan = make_plan(recipe, world)
    packed = [p.numel() for p in plan.model.parameters() if p.dtype == torch.uint8]
    backbone = load_backbone(plan, plan.open_weights(), torch.device("cpu"))
    assert backbone.meter.total == sum(packed)
    return build_engine(plan.model, backbone.trained, plan), set(packed), backbone.meter.total


def step(engine: Any, ids: torch.Tensor, sizes: set[int] | None) -> tuple[float, int]:
    """One optimizer step; returns the loss and the packed bytes alive before backward."""
    loss = engine(input_ids=ids, labels=ids).loss
    alive = packed_alive(engine.module, sizes) if sizes else 0
    engine.backward(loss)
    engine.step()
    return float(loss), alive


def slices_of(module: nn.Module) -> list[torch.Tensor]:
    """The slices of packed weights that this rank keeps."""
    slices = (getattr(p, "ds_tensor", None) for p in module.parameters())
    return [s for s in slices if s is not None and s.dtype == torch.uint8]


def statistics_of(module: nn.Module) -> int:
    """Bytes of the stock stack's statistics, which lie beside the parameters on every rank."""
    total = 0
    for parameter in module.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + state.state2.absmax.nbytes + state.offset.nbytes
    return total


def main() -> None:
    """Measure one side and write a JSON file per rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=0)
    parser.add_argument("--side", choices=["stock", "bigpeft"], required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from bigpeft.train.engine import join_processes
    from bigpeft.world import read_world

    join_processes(read_world())
    import bitsandbytes  # noqa: F401  before the memory is measured

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.monotonic()
    engine, sizes, total = (stock if options.side == "stock" else ours)(options.model)
    loaded = time.monotonic() - started
    grown = resident("VmHWM") - before
    vocab = engine.module.config.vocab_size
    alive = 0
    for number in range(WARM):
        _, now = step(engine, batch_of(number, vocab), sizes)
        alive = max(alive, now)
    seconds = []
    for number in range(WARM, WARM + TIMED):
        dist.barrier()
        started = time.monotonic()
        loss, _ = step(engine, batch_of(number, vocab), None)
        seconds.append(time.monotonic() - started)
    result = {
        "load_seconds": loaded,
        "load_peak_bytes": grown,
        "packed_bytes_total": total,
        "packed_bytes_shard": sum(s.numel() for s in slices_of(engine.module))
        + statistics_of(engine.module),
        "packed_bytes_alive": alive,
        "step_seconds": statistics.median(seconds),
        "loss": loss,
    }
    (options.out / f"{options.side}-{dist.get_rank()}.json").write_text(json.dumps(result))
    dist.barrier()


if __name__ == "__main__":
    main()
