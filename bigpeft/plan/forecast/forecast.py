"""tmp"""
from dataclasses import dataclass
from typing import Any
from bigpeft.plan.forecast.facts import facts_of
from bigpeft.plan.forecast.phases import bytes_by_phase
from bigpeft.plan.forecast.setting import Setting
from bigpeft.plan.model import placement_of
@dataclass(frozen=True)
class Forecast:
    per_rank: Any
def forecast_of(plan):
    z=plan.ds_config["zero_optimization"]
    f=facts_of(plan.model, plan.seated.values(), placement_of(plan.recipe), plan.dtype, plan.recipe.data.max_length, z.get("stage3_param_persistence_threshold",0) if plan.stage==3 else 10**12)
    s=Setting(plan.world.size//plan.world.local_size,plan.world.local_size,plan.stage,plan.group_size if plan.stage==3 else 1,plan.recipe.batch.micro_size,plan.recipe.batch.global_size,plan.recipe.train.activation_checkpointing)
    return Forecast(bytes_by_phase(f,s,z.get("reduce_bucket_size",0)))
