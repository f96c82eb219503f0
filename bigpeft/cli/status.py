"""bigpeft status: where a run stands."""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer


def status(
    run: Annotated[Path, typer.Argument(help="run folder, of a run that goes on or that is over")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Say whether a run goes on, how far it is, and which checkpoint it would resume."""
    from bigpeft.train.status import read_status

    found = read_status(run)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    typer.echo(f"{run}: {found.state}")
    if found.loss is None:
        typer.echo(f"step {found.step} of {found.steps}")
    else:
        typer.echo(
            f"step {found.step} of {found.steps}, {_ago(found.step_age)}, loss {found.loss:.4f}"
        )
    if found.seconds_left is not None:
        typer.echo(f"about {timedelta(seconds=round(found.seconds_left))} left")
    if found.failure is not None:
        typer.echo(found.failure)
    if found.straggler is not None:
        typer.echo(found.straggler)
    for reason in found.damaged:
        typer.echo(reason)
    if found.checkpoint is None:
        typer.echo("no checkpoint to go on from")
    else:
        typer.echo(f"checkpoint {found.checkpoint}, {_ago(found.checkpoint_age)}, verified")


def _ago(age: float | None) -> str:
    return f"{timedelta(seconds=round(age or 0))} ago"
