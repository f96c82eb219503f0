"""Other settings of the same run: what would make it fit, and what would be fastest."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

from bigpeft.plan.forecast.facts import Facts
from bigpeft.plan.forecast.forecast import Forecast, forecast
from bigpeft.plan.forecast.hardware import Hardware
from bigpeft.plan.forecast.setting import Setting

_CHEAPEST_FIRST = ("micro_size", "checkpointing", "group", "offload", "nodes")


def fitting(
    facts: Facts, start: Setting, hardware: Hardware, bucket: int, nodes: Iterable[int]
) -> list[Forecast]:
    """Every setting over these numbers of nodes that learns the same and fits, fastest first.

    Micro-batches go down from the recipe's global batch by halves, groups over the divisors of the
    ranks; checkpointing and the optimizer's place are tried both ways, the weights' place stays.
    With hpZ the first copy is the world's.
    """
    found = [forecast(facts, setting, bucket) for setting in _settings(start, nodes)]
    fits = [one for one in found if one.spare(hardware.card.memory) >= 0]
    return sorted(fits, key=lambda one: _preference(one, hardware))


def cheapest_change(fits: Iterable[Forecast], start: Setting) -> Forecast | None:
    """Of those that fit, the one that changes least; more machines are the last resort."""
    return min(fits, key=lambda one: _cost(one.setting, start), default=None)


def changes(start: Setting, other: Setting) -> dict[str, object]:
    """Field → new value, the cheapest change first."""
    pairs = {key: getattr(other, key) for key in _CHEAPEST_FIRST}
    return {key: value for key, value in pairs.items() if value != getattr(start, key)}


def _cost(setting: Setting, start: Setting) -> tuple[int, ...]:
    """More nodes first, then the number of changes, then how far each goes."""
    changed = changes(start, setting)
    return (
        setting.nodes,
        len(changed),
        sum(2 ** _CHEAPEST_FIRST.index(key) for key in changed),
        -setting.micro_size,
        setting.group,
    )


def _preference(one: Forecast, hardware: Hardware) -> tuple[float, ...]:
    """Fastest first; of equals, those that move least."""
    setting = one.setting
    return _seconds(one, hardware), setting.offload, setting.group, -setting.micro_size


def _seconds(one: Forecast, hardware: Hardware) -> float:
    """Per token, since other numbers of nodes may see other batches."""
    speed = one.speed(replace(hardware, nodes=one.setting.nodes))
    return speed.step / speed.tokens_per_step


def _settings(start: Setting, nodes: Iterable[int]) -> Iterator[Setting]:
    sharded = start.stage == 3
    for count in nodes:
        ranks = count * start.gpus_per_node
        groups = [g for g in range(1, ranks + 1) if ranks % g == 0] if sharded else [1]
        groups = [ranks] if start.second_copy else groups
        free = sharded and not start.weights_on_host and not start.second_copy
        offloads = (False, True) if free else (start.offload,)
        for micro, checkpointing, group, offload in product(
            _micro_sizes(start.global_size // ranks), (False, True), groups, offloads
        ):
            setting = replace(
                start,
                nodes=count,
                micro_size=micro,
                checkpointing=checkpointing,
                group=group,
                offload=offload,
            )
            if setting.is_possible:
                yield setting


def _micro_sizes(largest: int) -> list[int]:
    return [size for size in (2**power for power in range(12)) if size <= largest]
