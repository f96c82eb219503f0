"""The plan's skeleton becomes a model: starts drawn, weights streamed in, every part cut."""

import torch

from bigpeft.backbone import Loader, PackedMeter, RandomWeights, SafetensorsFolder, WeightSource
from bigpeft.placement import Trained, start, trained
from bigpeft.plan import Plan
from bigpeft.train.engine import make_partition


def load_backbone(plan: Plan, device: torch.device) -> tuple[PackedMeter, list[Trained]]:
    """Fill `plan.model` in place. Returns its meter and what is trained, in a stable order."""
    start(plan.seated, plan.recipe.run.seed, device)
    wants_dense = {name: m for name, m in plan.seated.items() if m.needs_dense}
    loader = Loader(_source(plan), make_partition(plan), device, plan.dtype, wants_dense)
    loader.fill(plan.model)
    plan.model.train()
    torch.manual_seed(plan.recipe.run.seed * 1_000_003 + plan.world.rank)
    return PackedMeter(plan.model), trained(plan.model)


def _source(plan: Plan) -> WeightSource:
    if plan.recipe.model.random:
        std = getattr(plan.model.config, "initializer_range", 0.02)
        return RandomWeights(plan.model, std, plan.recipe.run.seed)
    assert plan.folder is not None
    return SafetensorsFolder(plan.folder)
