"""bigpeft doctor: whether a run can start on these nodes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bigpeft.errors import EXIT_USER

if TYPE_CHECKING:
    from bigpeft.doctor import Found, Node, Wanted


def doctor(
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value ...")] = None,
    hostfile: Annotated[
        Path | None, typer.Option(help="nodes of the launch; default: this machine alone")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="recipe whose folders and files are examined")
    ] = None,
    master_port: Annotated[
        int, typer.Option(min=1, max=65535, help="where all ranks will meet")
    ] = 29500,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Examine every node, and all of them together, before a run is launched there."""
    from bigpeft.doctor import examine

    found = examine(_wanted(hostfile, recipe, overrides or [], master_port))
    if as_json:
        verdict = "problems" if found.problems else "fine"
        typer.echo(json.dumps({"verdict": verdict, **asdict(found)}))
    else:
        _show(found)
    if found.problems:
        raise typer.Exit(EXIT_USER)


def _wanted(
    hostfile: Path | None, recipe: Path | None, overrides: list[str], port: int
) -> "Wanted":
    from bigpeft.doctor import Wanted
    from bigpeft.errors import RecipeError
    from bigpeft.hostfile import Hostfile

    nodes = Hostfile.read(hostfile) if hostfile else None
    if recipe is None:
        if overrides:
            raise RecipeError(overrides[0], "changes no recipe", "add --recipe FILE")
        return Wanted(nodes, {"run.folder": str(Path.cwd())}, port=port)
    from bigpeft.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    folders = {
        "run.folder": loaded.run.folder,
        "model.cache": loaded.model.cache,
        "data.cache": loaded.data.cache,
    }
    inputs = [_absolute(str(recipe))]
    model = Path(loaded.model.name or "").expanduser()
    if loaded.model.name and model.exists():
        inputs.append(_absolute(str(model / "config.json" if model.is_dir() else model)))
    kept = {key: _absolute(folder) for key, folder in folders.items() if folder}
    return Wanted(nodes, kept, inputs, port)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _show(found: "Found") -> None:
    console = Console(highlight=False)
    console.print(_table(found.nodes))
    first = next((node.facts for node in found.nodes if node.facts), None)
    if first is not None:
        versions = (f"{name} {version}" for name, version in first.versions.items())
        console.print(Text(f"{', '.join(versions)}, files {first.code}"))
    measured = found.collectives
    if measured is None:
        console.print("all-reduce and broadcast: not tried before the nodes are in order")
    elif measured.ranks > 1:
        console.print(
            f"{measured.ranks} ranks, {measured.backend}: "
            f"all-reduce {_speed(measured.all_reduce)}, "
            f"broadcast {_speed(measured.broadcast)}, of {measured.size >> 20} MiB"
        )
    for problem in found.problems:
        console.print(Text(f"\n{problem}"), soft_wrap=True)
    console.print()
    count, nodes = len(found.problems), len(found.nodes)
    if count:
        console.print(f"{count} problem{'s' * (count > 1)}: mend what is named above")
    else:
        ranks = sum(node.slots for node in found.nodes)
        console.print(
            f"fine: a run can start with {ranks} ranks on {nodes} node{'s' * (nodes > 1)}"
        )


def _table(nodes: list["Node"]) -> Table:
    keys = next((list(node.facts.disks) for node in nodes if node.facts), [])
    table = Table(box=None, header_style="bold")
    for name in ("node", "slots", "GPUs", "driver", "free memory"):
        table.add_column(name, overflow="fold")
    for key in keys:
        table.add_column(f"free in {key}")
    for name in ("clock", "network"):
        table.add_column(name, overflow="fold")
    for node in nodes:
        table.add_row(*map(Text, _row(node, keys)))
    return table


def _row(node: "Node", keys: list[str]) -> list[str]:
    from bigpeft.doctor import gib

    facts = node.facts
    if facts is None:
        return [node.host, str(node.slots), "no answer"]
    gpus = [f"{facts.gpus.count(name)} × {name}" for name in dict.fromkeys(facts.gpus)]
    return [
        node.host,
        str(node.slots),
        ", ".join(gpus) or "none",
        facts.driver,
        gib(facts.memory),
        *(gib(facts.disks[key].free) for key in keys),
        f"{node.clock.ahead:+.3f} s" if node.clock else "",
        " ".join(node.route) or " ".join(facts.addresses[:1]),
    ]


def _speed(bandwidth: float) -> str:
    return f"{bandwidth / 1e9:.2f} GB/s"
