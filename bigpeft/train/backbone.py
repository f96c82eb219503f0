"""The plan's skeleton becomes a model: starts drawn, weights streamed in, every part cut."""

import torch

from bigpeft.backbone import Loader, PackedMeter, WeightSource
from bigpeft.placement import Trained, start, starters, trained
from bigpeft.plan import Plan
from bigpeft.train.engine import make_partition


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
