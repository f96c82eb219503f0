"""What `launch/train.py` does with its arguments: recipe → run → exit code."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from bigpeft.cli.failure import speaks_first
from bigpeft.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_RESUMABLE,
    EXIT_USER,
    StoppedEarly,
    UserError,
)
from bigpeft.world import World, pin_threads, read_world


def main(arguments: Sequence[str]) -> int:
    """Run a recipe under a launcher. Returns the exit code: 0, 1, 2, 75 or 130."""
    world = read_world()
    parser = argparse.ArgumentParser(
        prog="launch/train.py", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--recipe", type=Path, required=True, help="the YAML file of the run")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args(arguments)
    pin_threads(_threads(world))

    from bigpeft.train.terminal import Terminal

    terminal = Terminal(speaks=world.is_first)
    try:
        _run(options.recipe, options.overrides, world, terminal)
    except UserError as error:
        if speaks_first(world):
            terminal.shout(str(error))
        code = EXIT_USER
    except StoppedEarly as stop:
        terminal.say(f"{stop}; checkpoint.resume=auto goes on")
        code = EXIT_RESUMABLE
    except KeyboardInterrupt:
        terminal.say("interrupted; checkpoint.resume=auto goes on from the last checkpoint")
        code = EXIT_INTERRUPTED
    except Exception:
        if speaks_first(world):
            terminal.shout(f"rank {world.rank} on {world.host}:\n{traceback.format_exc()}")
        code = EXIT_BUG
    else:
        code = EXIT_DONE
    terminal.close()
    if code not in (EXIT_DONE, EXIT_RESUMABLE):
        _leave_now(code)
    return code


def _run(recipe: Path, overrides: Sequence[str], world: World, terminal: "Terminal") -> None:  # type: ignore[name-defined]  # noqa: F821
    from bigpeft.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from bigpeft.export import save_adapter
    from bigpeft.train.run import train

    try:
        run = train(loaded, world, terminal)
        folder, backbone = Path(loaded.run.folder) / "adapter", run.backbone
        save_adapter(
            folder, backbone.trained, run.plan, run.engine, backbone.base, backbone.started_from
        )
    except StoppedEarly:
        _report_and_leave(loaded.run.folder, world, terminal)
        raise
    _report_and_leave(loaded.run.folder, world, terminal)


def _report_and_leave(folder: str, world: World, terminal: "Terminal") -> None:  # type: ignore[name-defined]  # noqa: F821
    """The others wait for the page: the launcher ends all ranks at the first exit with 75."""
    from bigpeft.train.engine import leave_processes

    _report(folder, world, terminal)
    leave_processes()


def _report(folder: str, world: World, terminal: "Terminal") -> None:  # type: ignore[name-defined]  # noqa: F821
    """The page of the run, from the first rank; without it the run is no worse."""
    if not world.is_first:
        return
    try:
        from bigpeft.report import write_report

        terminal.say(f"report {write_report(Path(folder))}")
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        terminal.say(f"there is no report ({reason}); bigpeft report {folder} tries again")


def _threads(world: World) -> int:
    """An equal share of this machine's cores, unless OMP_NUM_THREADS says otherwise."""
    return max(1, (os.cpu_count() or 1) // max(1, world.local_size))


def _leave_now(code: int) -> None:
    """Leave without waiting for collectives that other ranks may never join."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
