"""A command that crashes is started again from its last checkpoint, until it ends for good."""

from collections.abc import Callable

from bigpeft.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_RESUMABLE
from bigpeft.train.attempt import Signals, attempt
from bigpeft.train.command import Command
from bigpeft.train.exit_code import code_of_shells, ending
from bigpeft.train.orphans import Orphans
from bigpeft.train.verdict import Standing, final_code

_LONGEST_PAUSE = 600.0


def run_to_the_end(command: Command, retries: int, pause: float, say: Callable[[str], None]) -> int:
    """Start `command`, and again after each crash. Returns the exit code to leave with.

    `retries` counts crashes in a row: one that left a new checkpoint behind is the first again.
    `pause`, in seconds, is that before the first. Raises FileError for a program that cannot be
    started.
    """
    words, failures = command.words, 0
    with Signals() as signals, Orphans() as orphans:
        while True:
            before = Standing.of(command.folder)
            code = attempt(words, command.folder, signals, orphans)
            now = Standing.of(command.folder)
            final = final_code(code, before, now, signals.stop, signals.interrupted)
            if final is not None:
                return final

            failures = 1 if now.saved > before.saved else failures + 1
            how = f"the command {ending(code)}"
            origin = f"from {now.checkpoint or command.origin}"
            resumable = f"checkpoint.resume=auto goes on {origin}"
            if failures > retries:
                say(f"{how}; none of {retries} retries is left; {resumable}")
                return code_of_shells(code) or EXIT_BUG
            wait = pause_before(failures, pause)
            say(f"{how}; retry {failures} of {retries} {origin} in {wait:g} s")
            signals.pause(wait)
            if signals.interrupted:
                return EXIT_INTERRUPTED
            if signals.stop:
                say(f"told to stop before the retry; {resumable}")
                return EXIT_RESUMABLE
            words = command.again(now.checkpoint is not None)


def pause_before(retry: int, first: float) -> float:
    """Seconds before this retry in a row: twice those before the last one, up to ten minutes."""
    return min(first * 2 ** (retry - 1), max(first, _LONGEST_PAUSE))
