"""Lower bounds of a step's time: what each resource needs by itself, the rest being free."""

from dataclasses import dataclass

from bigpeft.plan.forecast.facts import Facts
from bigpeft.plan.forecast.hardware import Hardware
from bigpeft.plan.forecast.setting import Setting
from bigpeft.plan.forecast.traffic import Traffic


@dataclass(frozen=True)
class Speed:
    """Seconds of one optimizer step by resource. The real step takes longer than any."""

    seconds: dict[str, float]
    tokens_per_step: int

    @property
    def binding(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def step(self) -> float:
        """Seconds that no run can beat on this hardware."""
        return self.seconds[self.binding]


def speed_of(facts: Facts, setting: Setting, hardware: Hardware, traffic: Traffic) -> Speed:
    """FLOPs of products and attention, bytes of decoded weights, bytes of both kinds of links."""
    tokens = setting.accumulation * setting.micro_size * facts.length
    card = hardware.card
    return Speed(
        {
            "compute": tokens * flops_per_token(facts, setting) / card.flops,
            "GPU memory": _decoded(facts, setting) / card.memory_speed,
            "links in the node": traffic.inside / card.link_speed,
            "network": traffic.between_nodes / hardware.network_speed,
        },
        tokens * setting.ranks,
    )


def flops_per_token(facts: Facts, setting: Setting) -> float:
    """2 for every weight and pass: forward, the input's gradient, and again under checkpointing;
    causal attention sees half of the row. Frozen weights have no gradient of their own.
    """
    passes = 3 if setting.checkpointing else 2
    head = facts.hidden * facts.vocabulary
    attention = 2 * facts.layers * facts.length * facts.hidden
    return passes * (2 * facts.linear + attention) + 4 * head + 6 * facts.trained


def _decoded(facts: Facts, setting: Setting) -> float:
    """Packed weights are read, written in the compute dtype, and read again by the product."""
    passes = setting.accumulation * (3 if setting.checkpointing else 2)
    return passes * (facts.packed + 2 * facts.linear * facts.itemsize)
