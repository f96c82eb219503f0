"""A command that one process runs, or all ranks of a launch together."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from bigpeft.errors import EXIT_BUG, EXIT_USER, UserError
from bigpeft.world import World, pin_threads, read_world

if TYPE_CHECKING:
    from bigpeft.train.terminal import Terminal


@contextmanager
def on_all_ranks() -> Iterator[tuple[World, "Terminal"]]:
    """Where this process stands, and a terminal on which the first rank speaks alone.

    Ends with one message, and exit code 2 for a mistake that the user can mend.
    """
    world = read_world()
    pin_threads(max(1, (os.cpu_count() or 1) // max(1, world.local_size)))
    from bigpeft.train.engine import leave_processes
    from bigpeft.train.terminal import Terminal

    terminal = Terminal(speaks=world.is_first)
    try:
        yield world, terminal
    except UserError as error:
        _fail(world, terminal, str(error), EXIT_USER)
    except Exception:
        _fail(world, terminal, traceback.format_exc(), EXIT_BUG)
    else:
        leave_processes()
        terminal.close()


def _fail(world: World, terminal: "Terminal", text: str, code: int) -> None:
    """The other ranks may wait for this one in a collective: it leaves without them."""
    if world.size == 1:
        terminal.shout(text)
        raise typer.Exit(code)
    from bigpeft.train.watch import Watch

    Watch(world, terminal).fail(text, code)
