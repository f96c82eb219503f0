"""bigpeft methods: what there is, and where each stands in the decomposition."""

import inspect
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bigpeft.errors import RecipeError
from bigpeft.methods import Method
from bigpeft.methods import methods as known_methods


def methods(
    name: Annotated[str | None, typer.Argument(help="tell about one method")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a list of objects")] = False,
) -> None:
    """List every method, or tell about one."""
    known = known_methods()
    if as_json:
        typer.echo(json.dumps([facts(key, method) for key, method in known.items()], indent=2))
    elif name is None:
        Console().print(_table(known))
    elif name in known:
        typer.echo(story(known[name]))
    else:
        raise RecipeError(name, "is no method", f"choose one of {', '.join(known)}")


def facts(name: str, method: type[Method]) -> dict[str, object]:
    """What a table says of a method."""
    return {
        "name": name,
        "family": method.family,
        "trainable": (method.count.__doc__ or "").rstrip("."),
        "needs_dense": method.needs_dense,
        "mergeable": method.mergeable,
        "supports_mpc": bool(method.mpc_patterns),
        "source": method.source,
    }


def story(method: type[Method]) -> str:
    """The method's own page: its module's docstring, then its options."""
    lines = [inspect.cleandoc(inspect.getmodule(method).__doc__ or ""), "", "Options:"]  # type: ignore[union-attr]
    for key, field in method.Options.model_fields.items():
        lines.append(f"  {key} = {field.default!r}: {field.description}")
    return "\n".join(lines)


def _table(known: dict[str, type[Method]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in (
        "method",
        "family",
        "trains per linear",
        "dense W at start",
        "merges",
        "source",
    ):
        table.add_column(heading)
    for name, method in known.items():
        row = facts(name, method)
        yes = {True: "yes", False: "no"}
        table.add_row(
            name,
            str(row["family"]),
            str(row["trainable"]),
            yes[method.needs_dense],
            yes[method.mergeable],
            method.source,
        )
    return table
