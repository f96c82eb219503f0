"""Whether a command that has ended is over for good, by its exit code and by its run folder.

Launchers hide exit codes: DeepSpeed's says 1 when it has got SIGTERM itself, and 0 when its own
child has been killed. Folders may hold an older run: only what a start has changed speaks for it.
"""

import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bigpeft.checkpoint import step_of
from bigpeft.checkpoint.adapter import DESCRIPTION, read_adapter
from bigpeft.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_RESUMABLE, EXIT_USER, FileError
from bigpeft.train.status import State, read_status
from bigpeft.train.watch.ending import FAILURE


@dataclass(frozen=True)
class Standing:
    """What a run folder holds at one moment; two of them tell what a start has brought.

    `saved` is the step of `checkpoint`, the newest that verifies; `adapter` the time of a whole
    one, which is the last thing that a run writes, and `failure` that of the message of a rank that
    ended all.
    """

    state: State | None
    checkpoint: str | None
    saved: int
    adapter: int | None
    failure: int | None

    @classmethod
    def of(cls, folder: Path) -> "Standing":
        """Read a folder, in which no run need have been yet."""
        state = checkpoint = adapter = failure = None
        with suppress(FileError):
            found = read_status(folder)
            state, checkpoint = found.state, found.checkpoint
        with suppress(FileError):
            read_adapter(folder / "adapter")
            adapter = (folder / "adapter" / DESCRIPTION).stat().st_mtime_ns
        with suppress(FileNotFoundError):
            failure = (folder / FAILURE).stat().st_mtime_ns
        saved = step_of(Path(checkpoint)) if checkpoint else 0
        return cls(state, checkpoint, saved, adapter, failure)


def final_code(
    code: int, before: Standing, now: Standing, told: bool, interrupted: bool
) -> int | None:
    """The code to leave with, None for a crash. `code` below 0 is a death by a signal.

    `told` to stop and `interrupted` say which signals came from outside.
    """
    if now.adapter != before.adapter and now.adapter is not None:
        return EXIT_DONE
    if code == EXIT_DONE and now.state in (None, "finished"):
        return EXIT_DONE
    if interrupted or code in (EXIT_INTERRUPTED, -signal.SIGINT):
        return EXIT_INTERRUPTED
    if code == EXIT_USER:
        return EXIT_USER
    if now.failure not in (None, before.failure):
        return None
    stopped = now.state == "stopped" and now.saved > before.saved
    witnesses = [told, stopped, code == EXIT_RESUMABLE]  # one alone may be wrong
    return EXIT_RESUMABLE if witnesses.count(True) >= 2 else None
