"""What a run costs beside the memory of its GPUs, in sentences: host, disk, links, hours, money."""

from bigpeft.plan.forecast.forecast import Forecast
from bigpeft.plan.forecast.hardware import GIB, Hardware
from bigpeft.recipe import Recipe


def costs(found: Forecast, hardware: Hardware, recipe: Recipe, rows: int | None) -> list[str]:
    """A sentence per resource; lengths of epochs and runs where `rows` or the recipe tell them."""
    speed, disk = found.speed(hardware), found.disk
    bounds = ", ".join(f"{name} {value:.3g} s" for name, value in speed.seconds.items() if value)
    lines = [
        f"{found.facts.packed / 1e9:.1f} GB packed in all, {found.facts.trained:,} numbers trained",
        f"host memory of a node: {found.host / GIB:.1f} GiB while loading",
        "disk: "
        + ", ".join(f"{key.replace('_', ' ')} {n / 1e9:.2f} GB" for key, n in disk.items()),
        f"each step brings a rank {found.traffic.inside / 1e9:.2f} GB inside its node, and "
        f"{found.traffic.between_nodes / 1e9:.3f} GB cross between nodes",
        f"a step takes at least {speed.step:.3g} s, bound by {speed.binding} ({bounds}), "
        f"for {speed.tokens_per_step:,} tokens",
    ]
    for name, steps in _lengths(recipe, rows).items():
        hours = steps * speed.step / 3600
        cost = f", {hours * hardware.ranks * hardware.price:,.0f} to pay" if hardware.price else ""
        lines.append(f"{name}: {steps:,} steps, at least {hours:.2f} h{cost}")
    return lines


def _lengths(recipe: Recipe, rows: int | None) -> dict[str, int]:
    epoch = None if rows is None else -(-rows // recipe.batch.global_size)
    named: dict[str, int] = {}
    if epoch is not None:
        named["an epoch"] = epoch
    if recipe.train.steps is not None:
        named["the run"] = recipe.train.steps
    elif epoch is not None and recipe.train.epochs is not None:
        named["the run"] = round(epoch * recipe.train.epochs)
    return named
