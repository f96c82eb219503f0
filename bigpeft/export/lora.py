"""Any mergeable method as LoRA: W' - W cut to rank k by its SVD, in HF peft's adapter format.

    ΔW ≈ B A        A = √Σ Vᵀ (k, in_features), B = U √Σ (out_features, k), the k largest triplets

By Eckart and Young no other factors of rank k are closer to ΔW. `top_singular` finds them exactly
up to a smaller side of 1024 and nearly beyond; the error is measured, not estimated. A method whose
ΔW has rank k or less loses nothing but rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bigpeft.backbone import fill_slots
from bigpeft.backbone.copies.writer import refuse_existing
from bigpeft.checkpoint.peft_names import PREFIX
from bigpeft.errors import RecipeError
from bigpeft.export.changed import changed, refuse_unmergeable
from bigpeft.export.peft_folder import common_config, write_peft_folder
from bigpeft.export.run import FinishedRun
from bigpeft.methods.algebra import top_singular


@dataclass(frozen=True)
class Factored:
    """What a LoRA of this rank keeps of a run.

    `errors` are ‖ΔW - B A‖ / ‖ΔW‖ in the Frobenius norm by layer; 0 where ΔW is zero.
    """

    folder: Path
    rank: int
    errors: dict[str, float]


def export_lora(
    run: FinishedRun,
    out: Path,
    rank: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Factored:
    """Write the change of the dense weights as an adapter that HF peft opens.

    Layers are read one at a time; the factors alone stay in memory. `progress` gets (linears done,
    linears in all). Raises RecipeError for a method that does not merge and for modules that were
    trained in full, FileError for a place that cannot be written.
    """
    refuse_unmergeable(run)
    if run.dense:
        raise RecipeError(
            "method.train_modules",
            f"trained {next(iter(run.dense))} in full, which LoRA factors do not hold",
            "write the whole model instead: bigpeft merge",
        )
    refuse_existing(out)
    source = run.open_weights()
    linears = {
        slot.linear.name: (slot, slot.linear)
        for slot in fill_slots(run.model, source.shapes())
        if slot.linear is not None
    }
    tensors, errors = {}, {}
    for number, name in enumerate(sorted(run.seated)):
        slot, linear = linears[name]
        weight = source.read(slot.key).double()
        delta = changed(run, slot, weight, dtype=torch.float64) - weight
        a, b, errors[name] = factors(delta.t() if linear.transposed else delta, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b
        progress(number + 1, len(run.seated))
    transposed = any(linears[name][1].transposed for name in errors)
    config = common_config(run.recipe, "LORA") | {
        "r": rank,
        "lora_alpha": rank,
        "fan_in_fan_out": transposed,
        "target_modules": list(errors),
    }
    write_peft_folder(out, config, tensors, {"errors.json": errors})
    return Factored(out, rank, errors)


def factors(delta: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """ΔW (o, i) → A (rank, i), B (o, rank) in fp32, and the relative error of B A.

    Rows of A beyond the smaller side of ΔW are zero.
    """
    u, values, vt = top_singular(delta, rank)
    root = values.sqrt()
    a, b = delta.new_zeros(rank, delta.shape[1]), delta.new_zeros(delta.shape[0], rank)
    a[: len(root)], b[:, : len(root)] = root[:, None] * vt, u * root
    size = delta.norm().item()
    error = torch.addmm(delta, b, a, alpha=-1).norm().item() / size if size else 0.0
    return a.float(), b.float(), error
