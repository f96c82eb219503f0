"""bigpeft run: a launch that is started again after a crash."""

from typing import Annotated

import typer
from rich.console import Console

from bigpeft.errors import UserError
from bigpeft.recipe import seconds_of

SETTINGS = {"allow_interspersed_args": False}
"""What follows the first word of the command belongs to the command."""


def run(
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="COMMAND", help="behind --, such as deepspeed launch/train.py --recipe FILE"
        ),
    ],
    retries: Annotated[int, typer.Option(help="restarts in a row without a new checkpoint")],
    pause: Annotated[
        str, typer.Option(help="before the first of them; doubles up to 10min")
    ] = "10s",
) -> None:
    """Start a run, and after a crash start it again from its last good checkpoint.

    SIGTERM and SIGUSR1 make it save and stop with exit code 75.
    """
    if retries < 0:
        raise UserError(f"--retries {retries}", "is below 0", "write 0 or more")
    try:
        seconds = seconds_of(pause)
    except ValueError:
        fix = "write a time such as 10s, 5min or 1h"
        raise UserError(f"--pause {pause}", "is no time", fix) from None

    from bigpeft.train.command import read_command
    from bigpeft.train.restart import run_to_the_end

    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(f"bigpeft run: {text}", markup=False)

    raise typer.Exit(run_to_the_end(read_command(command), retries, seconds, say))
