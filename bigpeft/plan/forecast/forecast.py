"""One forecast: a model in a setting on some hardware."""

from dataclasses import asdict, dataclass
from typing import Any

from bigpeft.backbone import written_dtype
from bigpeft.plan.forecast.facts import Facts, facts_of
from bigpeft.plan.forecast.hardware import GIB, Hardware
from bigpeft.plan.forecast.phases import PHASES, Bytes, bytes_by_phase
from bigpeft.plan.forecast.setting import Setting
from bigpeft.plan.forecast.speed import Speed, speed_of
from bigpeft.plan.forecast.traffic import Traffic, traffic_of
from bigpeft.plan.fragment_rules import offloads
from bigpeft.plan.model import placement_of
from bigpeft.plan.plan import Plan

RESERVE = GIB  # the driver's context, NCCL's buffers, what the allocator cannot join; an assumption


@dataclass(frozen=True)
class Forecast:
    """`per_rank` is phase → kind → bytes; what lies on the host and the disk is for a whole node,
    and for the run.
    """

    facts: Facts
    setting: Setting
    per_rank: dict[str, Bytes]
    traffic: Traffic

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        return max(PHASES, key=lambda phase: sum(self.per_rank[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes on one rank at the largest moment."""
        return sum(self.per_rank[self.peak_phase].values())

    def spare(self, memory: int) -> int:
        """Bytes of `memory` left at the peak, the reserve apart; negative where it does not fit."""
        return memory - RESERVE - self.peak

    @property
    def host(self) -> int:
        """Bytes of a node's own memory: tensors being read, and what is kept there."""
        f, ranks = self.facts, self.setting.ranks
        largest = max((tensor.numbers for tensor in f.tensors), default=0)
        offloaded = f.trained * (12 + f.itemsize) // ranks if self.setting.offload else 0
        if self.setting.weights_on_host:
            frozen = f.packed + f.dense * f.itemsize
            offloaded += sum(frozen // cut for cut in self.setting.copies)
        return self.setting.gpus_per_node * (2 * largest * f.source_itemsize + offloaded)

    @property
    def disk(self) -> dict[str, int]:
        """Bytes of a packed copy, one checkpoint, the adapter and the merged model."""
        f = self.facts
        ends = f.dense + f.kept
        return {
            "packed_copy": f.packed + ends * 2,
            "checkpoint": f.trained * (12 + f.itemsize) + f.buffers,
            "adapter": f.trained * 4 + f.buffers,
            "merged": (f.linear + ends) * 2,
        }

    def speed(self, hardware: Hardware) -> Speed:
        """Lower bounds of its step."""
        return speed_of(self.facts, self.setting, hardware, self.traffic)

    def as_json(self, hardware: Hardware) -> dict[str, Any]:
        """What `bigpeft plan --json` prints."""
        speed = self.speed(hardware)
        spare = self.spare(hardware.card.memory)
        return {
            "packed_bytes_total": self.facts.packed,
            "trainable": self.facts.trained,
            "fits": spare >= 0,
            "spare_bytes": spare,
            "peak_bytes": self.peak,
            "peak_phase": self.peak_phase,
            "gpu_memory_bytes": hardware.card.memory,
            "setting": asdict(self.setting),
            "per_rank": self.per_rank,
            "host_bytes_per_node": self.host,
            "disk_bytes": self.disk,
            "bytes_per_step_inside_node": self.traffic.inside,
            "bytes_between_nodes": self.traffic.between_nodes,
            "seconds_per_step_at_least": speed.seconds,
            "binding": speed.binding,
            "tokens_per_step": speed.tokens_per_step,
        }


def forecast(facts: Facts, setting: Setting, bucket: int) -> Forecast:
    """The forecast of this setting; `bucket` numbers of gradients are reduced together."""
    phases = bytes_by_phase(facts, setting, bucket)
    return Forecast(facts, setting, phases, traffic_of(facts, setting))


def forecast_of(plan: Plan) -> Forecast:
    """Of a plan whose weights have not been loaded."""
    zero = plan.ds_config["zero_optimization"]
    recipe, world = plan.recipe, plan.world
    whole = plan.stage < 3
    facts = facts_of(
        plan.model,
        plan.seated.values(),
        placement_of(recipe),
        plan.dtype,
        recipe.data.max_length,
        threshold=0 if whole else int(zero["stage3_param_persistence_threshold"]),
        source_itemsize=written_dtype(plan.model.config).itemsize,
    )
    setting = Setting(
        nodes=world.size // world.local_size,
        gpus_per_node=world.local_size,
        stage=plan.stage,
        group=1 if whole else plan.group_size,
        micro_size=recipe.batch.micro_size,
        global_size=recipe.batch.global_size,
        checkpointing=recipe.train.activation_checkpointing,
        offload=offloads(zero, "offload_optimizer"),
        weights_on_host=offloads(zero, "offload_param"),
        second_copy=plan.second_copy,
    )
    return forecast(facts, setting, int(zero.get("reduce_bucket_size", 0)))
