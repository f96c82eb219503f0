"""bigpeft methods: what there is, and where each stands in the decomposition."""

import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from bigpeft.errors import RecipeError, UserError
from bigpeft.methods import Method
from bigpeft.methods import methods as known_methods

COLUMNS = {
    "method": "name",
    "family": "family",
    "formula": "formula",
    "trains": "trainable",
    "extra passes": "extra",
    "dense W at load": "needs_dense",
    "merges": "mergeable",
    "HF peft": "hf_peft",
    "mpc": "mpc",
    "source": "source",
}


def methods(
    name: Annotated[str | None, typer.Argument(help="tell about one method")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="count what is trained in the model of this recipe")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a list of objects")] = False,
) -> None:
    """List every method, or tell about one."""
    known = known_methods()
    if name is not None and name not in known:
        raise RecipeError(name, "is no method", f"choose one of {', '.join(known)}")
    counts = count_for(recipe, [name] if name else list(known)) if recipe else {}
    if name is not None and not as_json:
        typer.echo(story(name, known[name], counts.get(name)))
        return
    rows = [facts(key, m) for key, m in known.items() if name in (None, key)]
    for row in rows:
        row["trainable"] = counts.get(str(row["name"]), row["trainable"])
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        Console().print(_table(rows))


def facts(name: str, method: type[Method]) -> dict[str, object]:
    """What a table says of a method."""
    return {
        "name": name,
        "family": method.family,
        "formula": formula(method),
        "trainable": (method.count.__doc__ or "").rstrip("."),
        "extra": method.extra,
        "needs_dense": method.needs_dense,
        "mergeable": method.mergeable,
        "hf_peft": method.hf_peft,
        "supports_mpc": bool(method.mpc_patterns),
        "mpc": " ".join(method.mpc_patterns) or "none",
        "learning_rate": method.learning_rate,
        "source": method.source,
    }


def formula(method: type[Method]) -> str:
    """The first formula of the method's page, one line."""
    page = _page(method).splitlines()
    lines = [line.strip() for line in page if line.startswith("    ") and " = " in line]
    return re.split(r" {4,}", re.sub(r"^.*: +", "", lines[0]))[0] if lines else ""


def story(name: str, method: type[Method], trained: object = None) -> str:
    """The method's own page."""
    lines = [
        _page(method),
        "",
        f"Family:         {method.family}",
        f"Source:         {method.source}",
        f"Moves:          {method.moves}",
        f"Choose it when: {method.when}",
        f"Extra passes:   {method.extra}",
        f"HF peft:        {method.hf_peft}",
        f"Learning rate:  {method.learning_rate:g} by default ({method.learning_rate_source})",
        f"MPC patterns:   {' '.join(method.mpc_patterns) or 'none'}",
    ]
    if trained is not None:
        lines.append(f"Trains:         {shown(trained)} numbers of this recipe's model")
    lines += ["", "Options:"]
    for key, field in method.Options.model_fields.items():
        default = "required" if field.default is PydanticUndefined else repr(field.default)
        lines.append(f"  {key} = {default}: {field.description}")
    if not method.Options.model_fields:
        lines.append("  none")
    if figures := measured().get(name):
        lines += ["", "Measured (docs/learning.md says how):"]
        lines += [f"  {key}: {value}" for key, value in figures.items()]
    return "\n".join(lines)


def measured() -> dict[str, dict[str, Any]]:
    """Method → figures of benchmarks/learn.py that ship with this version."""
    return json.loads((resources.files("bigpeft.cli") / "measured.json").read_text())


def count_for(recipe: Path, names: list[str]) -> dict[str, int | str]:
    """Method → numbers it would train in the recipe's model on the recipe's targets, or why it
    cannot. The options are the recipe's for its own method, the defaults for the others.
    """
    from bigpeft.placement import count
    from bigpeft.plan import bare_model, placement_for
    from bigpeft.recipe import load_recipe

    loaded = load_recipe(recipe)
    model = bare_model(loaded)
    counts: dict[str, int | str] = {}
    for name in names:
        try:
            counts[name] = count(model, placement_for(loaded, name))
        except UserError as error:
            counts[name] = f"cannot: {error}".splitlines()[0]
    return counts


def _page(method: type[Method]) -> str:
    return inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")


def shown(value: object) -> str:
    """A fact as tables show it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(rows: Sequence[Mapping[str, object]]) -> Table:
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(shown(row[key]) for key in COLUMNS.values()))
    return table
