"""The plan's skeleton becomes a model: starts drawn, weights streamed in, every part cut."""

import torch

from bigpeft.backbone import (
    Loader,
    PackedMeter,
    RandomWeights,
    SafetensorsFolder,
    WeightSource,
    fill_slots,
)
from bigpeft.placement import Trained, start, starters, trained
from bigpeft.plan import Plan
from bigpeft.train.engine import make_partition


def open_weights(plan: Plan) -> WeightSource:
    """Where the weights will come from, checked by the files' headers alone.

    Raises WeightError, the same on every rank, for files that are missing, cut off, or of another
    shape than the configuration says.
    """
    if plan.folder is None or plan.recipe.model.random:
        std = getattr(plan.model.config, "initializer_range", 0.02)
        return RandomWeights(plan.model, std, plan.recipe.run.seed)
    source = SafetensorsFolder(plan.folder)
    fill_slots(plan.model, source.shapes())
    return source


def load_backbone(
    plan: Plan, source: WeightSource, device: torch.device
) -> tuple[PackedMeter, list[Trained]]:
    """Fill `plan.model` in place. Returns its meter and what is trained, in a stable order."""
    start(plan.seated, plan.recipe.run.seed, device, plan.dtype)
    starts = starters(plan.model, plan.seated)
    loader = Loader(source, make_partition(plan), device, plan.dtype, starts)
    loader.fill(plan.model)
    plan.model.train()
    torch.manual_seed(plan.recipe.run.seed * 1_000_003 + plan.world.rank)
    return PackedMeter(plan.model), trained(plan.model, plan.seated)
