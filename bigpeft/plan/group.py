"""How many ranks share one copy of the frozen backbone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bigpeft.backbone.partition import HPZ
from bigpeft.errors import RecipeError
from bigpeft.plan.deepspeed_config import Fragment
from bigpeft.plan.forecast.forecast import Forecast, forecast, forecast_of
from bigpeft.plan.forecast.hardware import GIB
from bigpeft.plan.plan import Plan
from bigpeft.world import World


def choose_group(wanted: str | int, fragment: Fragment, world: World) -> int:
    """Ranks of a group; of `auto` the most that it may be, see `smallest_group`.

    Raises RecipeError if they do not divide the world.
    """
    size = {"auto": world.size, "world": world.size, "node": world.local_size}.get(
        str(wanted), wanted
    )
    assert isinstance(size, int)
    if size != world.size and fragment.stage != 3:
        raise RecipeError(
            "sharding.group",
            f"{wanted} needs ZeRO-3, {fragment.name} is stage {fragment.stage}",
            "write sharding.fragment: zero3, or leave sharding.group at world",
        )
    if world.size % size:
        raise RecipeError(
            "sharding.group",
            f"{wanted} does not divide the world size {world.size}",
            f"write a divisor of {world.size}",
        )
    return size


def second_copy(zero: Mapping[str, Any], wanted: str | int, world: World) -> int:
    """Ranks that share hpZ's second copy of the backbone, from which they gather; 0 without hpZ.

    Raises RecipeError if they do not divide the world, or the first copy is not the world's.
    """
    size = int(zero.get(HPZ, 1))
    if size < 2:
        return 0
    if wanted != "world":
        raise RecipeError(
            "sharding.group",
            f"{wanted} does not go with hpZ, which cuts a first copy over the world",
            f"write sharding.group: world, or sharding.fragment: zero3, where {wanted} sends no "
            "byte more and keeps no second copy",
        )
    if world.size % size:
        raise RecipeError(
            f"zero_optimization.{HPZ}",
            f"{size} does not divide the world size {world.size}",
            f"write a divisor of {world.size}, or auto for the ranks of a node",
        )
    return size


def smallest_group(plan: Plan, memory: int) -> tuple[int, str]:
    """The smallest group whose forecast fits `memory` bytes of a rank, and why it is that one.

    The smaller the group, the fewer bytes move; with 1 no weight is gathered at all. It is the
    world where nothing fits, or nothing can be foretold.
    """
    whole = plan.world.size
    if plan.stage < 3:
        return whole, f"ZeRO-{plan.stage} keeps the backbone whole on every rank"
    if whole == 1:
        return 1, "there is one rank"
    try:
        start = forecast_of(plan)
    except Exception as error:
        return whole, f"the memory of this model cannot be foretold ({error})"
    bucket = int(plan.ds_config["zero_optimization"].get("reduce_bucket_size", 0))
    tried = [
        forecast(start.facts, replace(start.setting, group=size), bucket)
        for size in range(1, whole + 1)
        if whole % size == 0
    ]
    at = next((n for n, one in enumerate(tried) if one.spare(memory) >= 0), None)
    if at is None:
        return whole, f"no group fits: even the world {_needs(tried[-1], memory)}"
    chosen = tried[at].setting.group
    if at == 0:
        return chosen, f"the smallest of all fits: it {_needs(tried[0], memory)}"
    before = tried[at - 1]
    return (
        chosen,
        f"the smallest that fits: it {_needs(tried[at], memory)}; "
        f"{before.setting.group} would need {before.peak / GIB:.2f} GiB",
    )


def _needs(one: Forecast, memory: int) -> str:
    return f"needs {one.peak / GIB:.2f} of {memory / GIB:.2f} GiB"
