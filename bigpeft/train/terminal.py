"""What the user sees: a few lines of their own run; notices of libraries go to run.log."""

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_LINES = 12


def log_of(folder: Path, rank: int) -> Path:
    """Where a run's notices of this rank are: the first rank's are the run's own."""
    return folder / "run.log" if rank == 0 else folder / "logs" / f"rank-{rank}.log"


class Terminal:
    """The real standard output, kept for the user while the process writes to run.log.

    Only the first rank speaks; the others' lines are dropped. Notices printed before there is a run
    folder wait in a nameless file.
    """

    def __init__(self, speaks: bool) -> None:
        self._speaks = speaks
        self._steps: StepLines | None = None
        self._stream: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        self.console = Console(file=self._stream, highlight=False, soft_wrap=True)
        self._early = tempfile.TemporaryFile()  # noqa: SIM115  open until there is a run folder
        _redirect(self._early.fileno())

    def send_notices_to(self, path: Path) -> None:
        """From now on everything that libraries print goes to this file, which is made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        _redirect(log)
        self._early.seek(0)
        os.write(log, self._early.read())
        self._early.close()
        os.close(log)

    def say(self, text: str) -> None:
        """One line from the first rank."""
        if self._speaks:
            self.console.print(text, markup=False)

    def show(self, drawn: RenderableType) -> None:
        """A table from the first rank."""
        if self._speaks:
            self.console.print(drawn)

    def shout(self, text: str) -> None:
        """One message from whichever rank has to say it."""
        self.close()
        self.console.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was: without a bar, with a cursor."""
        if self._steps is not None:
            self._steps.close()
        self._stream.flush()

    @property
    def bars(self) -> Console | None:
        """Where bars may be drawn: nowhere but on the first rank's terminal."""
        return self.console if self._speaks and self.console.is_terminal else None

    def progress(self, total: int, done: int) -> "StepLines":
        """Progress over optimizer steps: a bar on a terminal, a dozen lines elsewhere."""
        self._steps = StepLines(self, total, done)
        return self._steps


def _redirect(descriptor: int) -> None:
    """Standard output and error of this process, libraries' native code included."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


class StepLines:
    """Shows steps as they finish."""

    def __init__(self, terminal: Terminal, total: int, done: int) -> None:
        self._terminal, self._total, self._first = terminal, total, done
        self._started: float | None = None
        self._bar: Progress | None = None
        if terminal.bars is not None:
            self._bar = Progress(
                BarColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=terminal.bars,
            )
            self._task = self._bar.add_task("starting", total=total, completed=done)
            self._bar.start()

    def show(self, step: int, loss: float, tokens: int, seconds: float, memory: int) -> None:
        """A finished step, its tokens and how long it took."""
        self._started = self._started or time.monotonic() - seconds
        left = (time.monotonic() - self._started) / (step - self._first) * (self._total - step)
        tokens_per_second = tokens / seconds
        text = (
            f"step {step}/{self._total}  loss {loss:.4f}  {tokens_per_second:.0f} tokens/s  "
            f"{memory / 2**30:.2f} GiB  {left:.0f} s left"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
            return
        every = max(1, -(-self._total // PLAIN_LINES))
        if step % every == 0 or step in (self._first + 1, self._total):
            self._terminal.say(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
