"""Finished runs without training: an adapter moved off its start, and a live model that has it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from bigpeft.export import FinishedRun, open_run
from bigpeft.export.adapter import description
from bigpeft.methods import methods
from bigpeft.placement import frozen, trained
from bigpeft.plan import make_plan
from bigpeft.recipe import dump_recipe, load_recipe
from bigpeft.train.backbone import load_backbone
from bigpeft.world import World
from tests.backbone.families import saved_model
from tests.train.runs import DEBUG

ALONE = World()
SIZES = {
    "rank": 4, "directions": 20, "block_size": 8, "frequencies": 30, "length": 5,
    "target_rank": 2, "max_rank": 6, "switch_step": 1, "block": 12,
}  # fmt: skip


@dataclass(frozen=True)
class Moved:
    """A run folder, the model that the run would have ended with, and the stock model under it."""

    folder: Path
    model: PreTrainedModel
    base: PreTrainedModel

    def open(self) -> FinishedRun:
        return open_run(self.folder)


def options_of(name: str) -> dict[str, Any]:
    """Small sizes for whatever this method takes."""
    fields = methods()[name].Options.model_fields
    return {key: size for key, size in SIZES.items() if key in fields}


def moved(folder: Path, method: dict[str, Any], family: str = "llama", *overrides: str) -> Moved:
    """A run of this method section over a tiny model, every number moved off its start."""
    base = saved_model(family, folder / "base")
    model = f"model={{name: {folder / 'base'}, tokenizer: recipes/data/debug/tokenizer}}"
    said = [model, "model.weights=none", f"method={json.dumps(method)}", "data.max_length=32"]
    said.append("sharding.fragment=zero2")
    run = folder / "run"
    recipe = load_recipe(DEBUG, [f"run.folder={run}", *said, *overrides])
    plan = make_plan(recipe, ALONE)
    load_backbone(plan, plan.open_weights(), torch.device("cpu"))
    torch.manual_seed(2)
    found = trained(plan.model, plan.seated)
    with torch.no_grad():
        for item in found:
            item.parameter.add_(0.1 * torch.randn_like(item.parameter))
        for seat in plan.seated.values():
            for key in seat.evolving:
                open_evolving(seat.get_buffer(key))
    tensors = {item.name: item.parameter.detach().clone() for item in found}
    (run / "adapter").mkdir(parents=True)
    save_file(tensors | frozen(plan.seated), run / "adapter" / "adapter.safetensors")
    (run / "adapter" / "adapter.json").write_text(json.dumps(description(plan)))
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    return Moved(run, plan.model.eval(), base)


def open_evolving(buffer: Tensor) -> None:
    """What steps would have set: all directions chosen once, all of them open."""
    buffer.copy_(torch.arange(buffer.numel()).view_as(buffer) if buffer.dtype == torch.long else 1)


@torch.no_grad()
def logits(model: Any, ids: Tensor) -> Tensor:
    """Of the real tokens, (batch, tokens, vocabulary)."""
    return model.eval()(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]
