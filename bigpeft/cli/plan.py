"""bigpeft plan: whether a run fits, what binds it and what it costs, before anyone pays."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from bigpeft.errors import RecipeError
from bigpeft.plan import outline
from bigpeft.plan.forecast import (
    CARDS,
    GIB,
    PHASES,
    RESERVE,
    Forecast,
    Hardware,
    changes,
    cheapest_change,
    fitting,
    forecast_of,
    read_bytes,
    read_speed,
)
from bigpeft.recipe import Recipe, load_recipe
from bigpeft.world import World

_KEYS = {
    "micro_size": "batch.micro_size",
    "checkpointing": "train.activation_checkpointing",
    "group": "sharding.group",
    "nodes": "--nodes",
}


def plan(
    recipe: Annotated[Path, typer.Option(help="a recipe file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value")] = None,
    nodes: Annotated[int, typer.Option(min=1, help="number of machines")] = 1,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs, and ranks, of each")] = 8,
    gpu: Annotated[str, typer.Option(help=f"one of {', '.join(CARDS)}")] = "h100",
    gpu_memory: Annotated[str | None, typer.Option(help="of each, such as 80GiB")] = None,
    bandwidth: Annotated[str, typer.Option(help="of a node's network")] = "400Gbit/s",
    price: Annotated[float | None, typer.Option(help="of one GPU for an hour")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="training rows, for epochs")] = None,
    sweep: Annotated[bool, typer.Option(help="the fastest settings that fit")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one object")] = False,
) -> None:
    """Tell from the configuration alone what a run would need: no weights, no GPU, no network."""
    hardware = _hardware(nodes, gpus_per_node, gpu, gpu_memory, bandwidth, price)
    wanted = _as_on_gpus(load_recipe(recipe, overrides or []))
    world = World(size=hardware.ranks, local_size=gpus_per_node)
    planned = outline(wanted, world, weights=False, memory=hardware.card.memory)
    found = forecast_of(planned)
    bucket = int(planned.ds_config["zero_optimization"].get("reduce_bucket_size", 0))
    others = _others(found, hardware, bucket, sweep)
    if as_json:
        told = found.as_json(hardware) | {
            "advice": _advice(found, hardware, others),
            "group_reason": planned.group_reason,
        }
        if sweep:
            told["sweep"] = [one.as_json(_for(one, hardware)) for one in others[:10]]
        typer.echo(json.dumps(told, indent=2))
    else:
        console = Console(highlight=False)
        console.print(_table(found))
        if wanted.sharding.group == "auto":
            console.print(
                f"sharding.group: auto is {planned.group_size}, {planned.group_reason}",
                soft_wrap=True,
            )
        for line in (*_lines(found, hardware, wanted, rows), _verdict(found, hardware, others)):
            console.print(line, soft_wrap=True, markup=False)
        if sweep:
            console.print(_swept(others[:10], hardware))
    _refuse_hopeless(found, hardware, others)


def _hardware(
    nodes: int,
    gpus_per_node: int,
    gpu: str,
    memory: str | None,
    bandwidth: str,
    price: float | None,
) -> Hardware:
    if gpu not in CARDS:
        raise RecipeError(f"--gpu {gpu}", "is not known", f"write one of {', '.join(CARDS)}")
    card = CARDS[gpu]
    if memory is not None:
        card = replace(card, memory=read_bytes("--gpu-memory", memory))
    return Hardware(nodes, gpus_per_node, card, read_speed("--bandwidth", bandwidth), price)


def _as_on_gpus(recipe: Recipe) -> Recipe:
    """What `auto` will be on the machines that the plan is for, not on this one."""
    precision = "fp32" if recipe.train.precision == "fp32" else "bf16"
    return recipe.model_copy(
        update={
            "train": recipe.train.model_copy(update={"precision": precision}),
            "model": recipe.model.model_copy(update={"attention": "auto"}),
        }
    )


def _others(found: Forecast, hardware: Hardware, bucket: int, sweep: bool) -> list[Forecast]:
    """Settings that fit: of this many nodes if any does or all are asked for, else of more."""
    here = found.setting.nodes
    counts = [here * factor for factor in (1, 2, 4, 8)] if sweep else [here]
    fits = fitting(found.facts, found.setting, hardware, bucket, counts)
    if fits or found.spare(hardware.card.memory) >= 0:
        return fits
    more = [here * factor for factor in (2, 4, 8, 16)]
    return fitting(found.facts, found.setting, hardware, bucket, more)


def _for(one: Forecast, hardware: Hardware) -> Hardware:
    return replace(hardware, nodes=one.setting.nodes)


def _table(found: Forecast) -> Table:
    table = Table(title=f"GiB on each rank: {found.setting}")
    table.add_column("")
    for phase in PHASES:
        table.add_column(phase, justify="right")
    kinds = dict.fromkeys(kind for phase in PHASES for kind in found.per_rank[phase])
    for kind in kinds:
        cells = [found.per_rank[phase].get(kind, 0) for phase in PHASES]
        if any(cells):
            table.add_row(kind, *(f"{cell / GIB:.2f}" if cell else "" for cell in cells))
    sums = [sum(found.per_rank[phase].values()) for phase in PHASES]
    table.add_row("together", *(f"{value / GIB:.2f}" for value in sums), style="bold")
    return table


def _lines(found: Forecast, hardware: Hardware, recipe: Recipe, rows: int | None) -> list[str]:
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


def _verdict(found: Forecast, hardware: Hardware, others: list[Forecast]) -> str:
    memory = hardware.card.memory
    spare = found.spare(memory)
    if spare >= 0:
        return (
            f"fits: {found.peak / GIB:.1f} GiB at the peak ({found.peak_phase}) and "
            f"{RESERVE / GIB:.0f} GiB kept back leave {spare / GIB:.1f} of {memory / GIB:.1f} GiB"
        )
    told = _advice(found, hardware, others)
    lacking = (
        f"does not fit: {-spare / GIB:.1f} GiB are missing at the peak ({found.peak_phase}), "
        f"of {memory / GIB:.1f} GiB with {RESERVE / GIB:.0f} GiB kept back"
    )
    return f"{lacking}; it fits with {' '.join(told)}" if told else lacking


def _advice(found: Forecast, hardware: Hardware, others: list[Forecast]) -> list[str]:
    """The overrides and options of the cheapest change that makes it fit; none where it does."""
    if found.spare(hardware.card.memory) >= 0:
        return []
    best = cheapest_change(others, found.setting)
    return (
        [_written(key, value) for key, value in changes(found.setting, best.setting).items()]
        if (best)
        else []
    )


def _written(key: str, value: Any) -> str:
    if key == "offload":
        return f"sharding.fragment={'zero3_cpu' if value else 'zero3'}"
    if key == "nodes":
        return f"--nodes {value}"
    return f"{_KEYS[key]}={str(value).lower()}"


def _swept(fits: list[Forecast], hardware: Hardware) -> Table:
    table = Table(title="fastest settings that fit, by their lower bounds")
    for name in ("setting", "peak GiB", "s/step ≥", "tokens/s ≤", "bound by"):
        table.add_column(name)
    for one in fits:
        speed = one.speed(_for(one, hardware))
        table.add_row(
            str(one.setting),
            f"{one.peak / GIB:.1f}",
            f"{speed.step:.3g}",
            f"{speed.tokens_per_step / speed.step:,.0f}",
            speed.binding,
        )
    return table


def _refuse_hopeless(found: Forecast, hardware: Hardware, others: list[Forecast]) -> None:
    if found.spare(hardware.card.memory) >= 0 or others:
        return
    raise RecipeError(
        "--gpu-memory",
        f"{hardware.card.memory / GIB:.1f} GiB fit no setting of this run on up to "
        f"{16 * found.setting.nodes} nodes",
        "use larger GPUs, a shorter data.max_length, or a smaller method.rank",
    )
