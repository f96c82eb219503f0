"""The hostfile of a launch over ssh: one `HOST slots=N` a line, as DeepSpeed reads it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bigpeft.errors import FileError

_LINE = re.compile(r"(?P<host>\S+)\s+slots=(?P<slots>\d{1,6})(\s.*)?", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@%-]*")
_FIX_LINE = "write one line for each node, such as: node-1 slots=8"


@dataclass(frozen=True)
class Hostfile:
    """The nodes of a launch, in the order of their ranks, all with the same number of slots.

    Iterates over (host, slots).
    """

    path: Path
    nodes: tuple[tuple[str, int], ...]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def slots(self) -> int:
        """Ranks that each node runs."""
        return self.nodes[0][1]

    @classmethod
    def read(cls, path: Path, nodes: int | None = None) -> "Hostfile":
        """Read a hostfile, or its first `nodes` nodes, which are those DeepSpeed would take.

        Raises FileError for a file that is missing or unreadable, a broken line, a host named
        twice, uneven slots, and fewer nodes than asked for.
        """
        found = _read_lines(path)
        if not found:
            raise FileError(f"hostfile {path}", "names no host", _FIX_LINE)
        if nodes is not None and not 1 <= nodes <= len(found):
            raise FileError(
                f"hostfile {path}",
                f"names {len(found)} nodes where {nodes} are asked for",
                f"ask for 1 to {len(found)} nodes, or add lines such as: node-9 slots=8",
            )
        chosen = tuple(found.items())[:nodes]
        _check_even(path, chosen)
        return cls(path, chosen)


def _read_lines(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is no text"
        raise FileError(
            f"hostfile {path}", f"cannot be read ({why})", f"name another file, or {_FIX_LINE}"
        ) from error
    found: dict[str, int] = {}
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"hostfile {path}, line {number}"
        host, slots = _read_line(where, text)
        if host in found:
            raise FileError(
                where,
                f"names {host} again, after line {first_line[host]}",
                "keep one line for each host, with all its slots",
            )
        found[host], first_line[host] = slots, number
    return found


def _read_line(where: str, text: str) -> tuple[str, int]:
    match = _LINE.fullmatch(text)
    if match is None:
        raise FileError(where, f"is no host with slots: {text!r}", _FIX_LINE)
    host, slots = match["host"], int(match["slots"])
    if not _HOST.fullmatch(host):
        raise FileError(
            where,
            f"is no name of one host: {host!r}",
            "write a name or an address; a range such as node[1-4] needs a line for each node",
        )
    if slots == 0:
        raise FileError(
            where, f"gives {host} no slot", "write its number of GPUs, or drop the line"
        )
    return host, slots


def _check_even(path: Path, nodes: tuple[tuple[str, int], ...]) -> None:
    """Ranks that share a copy of the backbone are counted per node."""
    (first, slots), *others = nodes
    for host, other in others:
        if other != slots:
            least = min(count for _, count in nodes)
            raise FileError(
                f"hostfile {path}",
                f"has uneven slots: {first} has {slots}, {host} has {other}",
                f"write slots={least} for all of them, or leave smaller nodes out",
            )
