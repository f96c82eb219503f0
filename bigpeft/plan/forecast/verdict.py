"""Whether a run fits, and what to change where it does not, in words that can be pasted."""

from dataclasses import replace
from typing import Any

from bigpeft.plan.forecast.forecast import RESERVE, Forecast
from bigpeft.plan.forecast.hardware import GIB, Hardware
from bigpeft.plan.forecast.search import changes, cheapest_change, fitting

_KEYS = {
    "micro_size": "batch.micro_size",
    "checkpointing": "train.activation_checkpointing",
    "group": "sharding.group",
}


def others_that_fit(
    found: Forecast, hardware: Hardware, bucket: int, sweep: bool = False
) -> list[Forecast]:
    """Settings that fit: of this many nodes if any does or all are asked for, else of more."""
    here = found.setting.nodes
    counts = [here * factor for factor in (1, 2, 4, 8)] if sweep else [here]
    fits = fitting(found.facts, found.setting, hardware, bucket, counts)
    if fits or found.spare(hardware.card.memory) >= 0:
        return fits
    more = [here * factor for factor in (2, 4, 8, 16)]
    return fitting(found.facts, found.setting, hardware, bucket, more)


def on_its_nodes(one: Forecast, hardware: Hardware) -> Hardware:
    """The same machines, as many as this forecast is for."""
    return replace(hardware, nodes=one.setting.nodes)


def advice(found: Forecast, hardware: Hardware, others: list[Forecast]) -> list[str]:
    """The overrides and options of the cheapest change that makes it fit; none where it does."""
    best = cheapest_change(others, found.setting)
    if found.spare(hardware.card.memory) >= 0 or best is None:
        return []
    return [_written(key, value) for key, value in changes(found.setting, best.setting).items()]


def verdict(found: Forecast, hardware: Hardware, others: list[Forecast]) -> str:
    """One sentence: what is spare, or what is missing and what makes it fit."""
    memory = hardware.card.memory
    spare = found.spare(memory)
    if spare >= 0:
        return (
            f"fits: {found.peak / GIB:.1f} GiB at the peak ({found.peak_phase}) and "
            f"{RESERVE / GIB:.0f} GiB kept back leave {spare / GIB:.1f} of {memory / GIB:.1f} GiB"
        )
    told = advice(found, hardware, others)
    lacking = (
        f"does not fit: {-spare / GIB:.1f} GiB are missing at the peak ({found.peak_phase}), "
        f"of {memory / GIB:.1f} GiB with {RESERVE / GIB:.0f} GiB kept back"
    )
    return f"{lacking}; it fits with {' '.join(told)}" if told else lacking


def _written(key: str, value: Any) -> str:
    if key == "offload":
        return f"sharding.fragment={'zero3_cpu' if value else 'zero3'}"
    if key == "nodes":
        return f"--nodes {value}"
    return f"{_KEYS[key]}={str(value).lower()}"
