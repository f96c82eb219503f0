"""The one message that a run ends with when a rank cannot go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bigpeft.errors import EXIT_BUG, EXIT_RESUMABLE
from bigpeft.train.terminal import log_of
from bigpeft.train.watch.pulse import Beat
from bigpeft.train.watch.ward import Finding

FAILURE = "failure.txt"
"""In the run folder: the message that the last start ended with."""

_LINES = 5
_TAIL = 4096


@dataclass(frozen=True)
class Ending:
    """What `speaker`, a rank, says for all, and the exit code of all ranks."""

    speaker: int
    text: str
    code: int


def ending_of(finding: Finding, speaker: int, folder: Path) -> Ending:
    """The message and code of a run in `folder` in which this was found."""
    saved = newest_saved(folder)
    first = finding.ranks[0]
    lines = [f"{_named(finding.ranks)}: {finding.why}"]
    lines += [f"  {_told(beat)}" for beat in finding.ranks[:2]]
    tail = _tail(log_of(folder, first.rank))
    if tail:
        lines += [f"  the end of {log_of(folder, first.rank)}:", *(f"    {line}" for line in tail)]
    on = f"checkpoint.resume=auto goes on from {saved}" if saved else "nothing was saved yet"
    lines.append(f"  fix: look at {first.host}; {on}")
    return Ending(speaker, "\n".join(lines), EXIT_RESUMABLE if saved else EXIT_BUG)


def newest_saved(folder: Path) -> str | None:
    """The newest checkpoint that is complete; whether it is whole is seen when it is resumed."""
    from bigpeft.checkpoint import complete

    found = complete(folder / "checkpoints")
    return found[-1].name if found else None


def _named(ranks: Sequence[Beat]) -> str:
    """`rank 3 on node-b`, or the ranks of each node."""
    hosts = dict.fromkeys(beat.host for beat in ranks)
    told = []
    for host in hosts:
        numbers = [str(beat.rank) for beat in ranks if beat.host == host]
        told.append(f"rank{'s' * (len(numbers) > 1)} {', '.join(numbers)} on {host}")
    return ", ".join(told)


def _told(beat: Beat) -> str:
    where = f", at {beat.place}" if beat.place else ""
    return f"rank {beat.rank} was last in: {beat.doing}{where}"


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LINES:]
