"""A node as far as it is known, and a problem in the words of the user."""

from dataclasses import dataclass, field

from bigpeft.doctor.facts import Facts
from bigpeft.doctor.talk import Clock


@dataclass(frozen=True)
class Problem:
    """`what` names the node or folder; `why` goes on with the sentence; `fix` says what to do."""

    what: str
    why: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}\n  fix: {self.fix}"


@dataclass
class Node:
    """One node, as far as it has answered. `silent` says why it has not."""

    host: str
    slots: int
    silent: str | None = None
    code: int | None = None
    facts: Facts | None = None
    unwritable: str = ""
    clock: Clock | None = None
    route: tuple[str, ...] = ()
    """Interface and address towards the first node, or from it to the second."""
    unseen: list[str] = field(default_factory=list)
    """Hosts whose files in the run folder this node does not see."""
    sees_old: bool = False
    """Whether it still sees what another node has renamed a new file over."""


Answered = list[tuple[Node, Facts]]
"""Nodes that have spoken. Where they are compared, the first is the measure."""


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB"
