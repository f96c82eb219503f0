"""bigpeft plan: whether a run fits, what binds it and what it costs, before anyone pays."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bigpeft.errors import RecipeError
from bigpeft.plan import outline
from bigpeft.plan.forecast import (
    CARDS,
    GIB,
    PHASES,
    Forecast,
    Hardware,
    advice,
    costs,
    forecast_of,
    on_its_nodes,
    others_that_fit,
    read_bytes,
    read_speed,
    verdict,
)
from bigpeft.recipe import Recipe, load_recipe
from bigpeft.world import World


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
    html: Annotated[Path | None, typer.Option(help="also write a page, with a picture")] = None,
) -> None:
    """Tell from the configuration alone what a run would need: no weights, no GPU, no network."""
    hardware = _hardware(nodes, gpus_per_node, gpu, gpu_memory, bandwidth, price)
    wanted = _as_on_gpus(load_recipe(recipe, overrides or []))
    world = World(size=hardware.ranks, local_size=gpus_per_node)
    planned = outline(wanted, world, weights=False, memory=hardware.card.memory)
    found = forecast_of(planned)
    bucket = int(planned.ds_config["zero_optimization"].get("reduce_bucket_size", 0))
    others = others_that_fit(found, hardware, bucket, sweep)
    said = costs(found, hardware, wanted, rows)
    if wanted.sharding.group == "auto":
        said.insert(0, f"sharding.group: auto is {planned.group_size}, {planned.group_reason}")
    if html is not None:
        from bigpeft.report.forecast import write_forecast

        write_forecast(found, hardware, wanted, said, verdict(found, hardware, others), html)
    if as_json:
        told = found.as_json(hardware) | {
            "advice": advice(found, hardware, others),
            "group_reason": planned.group_reason,
        }
        if sweep:
            told["sweep"] = [one.as_json(on_its_nodes(one, hardware)) for one in others[:10]]
        typer.echo(json.dumps(told, indent=2))
    else:
        console = Console(highlight=False)
        console.print(_table(found))
        for line in (*said, verdict(found, hardware, others), *([str(html)] if html else [])):
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


def _swept(fits: list[Forecast], hardware: Hardware) -> Table:
    table = Table(title="fastest settings that fit, by their lower bounds")
    for name in ("setting", "peak GiB", "s/step ≥", "tokens/s ≤", "bound by"):
        table.add_column(name)
    for one in fits:
        speed = one.speed(on_its_nodes(one, hardware))
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
