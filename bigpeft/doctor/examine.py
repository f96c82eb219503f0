"""The examination: every node speaks for itself, then all of them together."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from bigpeft.doctor.collectives import Collectives, measure
from bigpeft.doctor.facts import Disk, Facts
from bigpeft.doctor.judge import can_launch, judge
from bigpeft.doctor.marks import FIRST, SECOND
from bigpeft.doctor.problem import Node, Problem
from bigpeft.doctor.talk import Silent, Talk
from bigpeft.errors import UserError
from bigpeft.hostfile import Hostfile

_APPEARS, _RENAMED = 15, 60  # seconds; NFS may keep what it knows of a name for the second


@dataclass(frozen=True)
class Wanted:
    """What a run would need: nodes, folders by recipe key, files that every node reads, a port."""

    hostfile: Hostfile | None
    folders: dict[str, str]
    inputs: list[str] = field(default_factory=list)
    port: int = 29500

    @property
    def shared(self) -> str:
        """The folder that all nodes must share."""
        return self.folders["run.folder"]


@dataclass(frozen=True)
class Found:
    """Nodes in the order of their ranks, what they measured together (None: not tried), and
    what is wrong.
    """

    nodes: list[Node]
    collectives: Collectives | None
    problems: list[Problem]


def examine(wanted: Wanted) -> Found:
    """Examine this machine, or all nodes of a hostfile. Raises UserError without an ssh."""
    if wanted.hostfile and shutil.which("ssh") is None:
        raise UserError("ssh", "is not installed on this machine", "install openssh-client")
    hosts = list(wanted.hostfile) if wanted.hostfile else [("", 0)]
    nodes = [Node(host or "this machine", slots) for host, slots in hosts]
    with _talks(wanted, hosts) as talks:
        for node, talk in zip(nodes, talks, strict=True):
            _hear(node, talk)
        if wanted.hostfile is None and nodes[0].facts:
            nodes[0].slots = nodes[0].facts.usable_gpus or min(2, os.cpu_count() or 1)
        answering = [pair for pair in zip(nodes, talks, strict=True) if pair[0].facts]
        if len(answering) > 1:
            _compare(answering, wanted)
    problems = judge(nodes, wanted.port)
    collectives = None
    if can_launch(nodes):
        collectives = measure(wanted.hostfile, nodes[0].slots, wanted.port, _on_gpus(nodes))
        problems += collectives.problems
    return Found(nodes, collectives, problems)


@contextmanager
def _talks(wanted: Wanted, hosts: list[tuple[str, int]]) -> Iterator[list[Talk]]:
    asked = {
        "token": uuid.uuid4().hex[:8],
        "folders": wanted.folders,
        "shared": wanted.shared,
        "inputs": wanted.inputs,
        "port": wanted.port,
    }
    with ExitStack() as stack:
        talks = [Talk(host or None, {**asked, "host": host or "here"}) for host, _ in hosts]
        for talk in talks:
            stack.callback(talk.close)
        yield talks


def _hear(node: Node, talk: Talk) -> None:
    try:
        answer = talk.hear()
        node.clock = talk.clock()
    except Silent as silence:
        node.silent, node.code = str(silence), silence.code
        return
    node.facts, node.unwritable = _facts(answer["facts"]), answer["unwritable"]


def _facts(answer: dict[str, Any]) -> Facts:
    disks = {key: Disk(**disk) for key, disk in answer["disks"].items()}
    tuples = {key: tuple(answer[key]) for key in ("gpus", "addresses")}
    return Facts(**{**answer, "disks": disks, **tuples})


def _compare(answering: list[tuple[Node, Talk]], wanted: Wanted) -> None:
    """Ways to each other, and what each sees of the others' marks."""
    first, writer = answering[0]
    for node, talk in answering:
        peer = first if node is not first else answering[1][0]
        address = (peer.facts.addresses if peer.facts else ()) or (peer.host.rpartition("@")[2],)
        talk.tell(route=address[0], port=wanted.port)
    for node, answer in _answers(answering):
        node.route = tuple(answer["route"])
    marks = {node.host: FIRST for node, _ in answering if not node.unwritable}
    for node, answer in _look(answering, marks, _APPEARS):
        node.unseen = [host for host, text in answer["seen"].items() if text != FIRST]
    if first.host not in marks:
        return
    writer.tell(write=SECOND)
    for _, answer in _answers(answering[:1]):
        if not answer["unwritable"]:
            sharing = [pair for pair in answering if not pair[0].unseen]
            for node, seen in _look(sharing, {first.host: SECOND}, _RENAMED):
                node.sees_old = seen["seen"][first.host] != SECOND


def _look(
    asked: list[tuple[Node, Talk]], marks: dict[str, str], patience: float
) -> Iterator[tuple[Node, dict[str, Any]]]:
    """All nodes wait for these marks at once."""
    for _, talk in asked:
        talk.tell(look=marks, patience=patience)
    return _answers(asked)


def _answers(asked: list[tuple[Node, Talk]]) -> Iterator[tuple[Node, dict[str, Any]]]:
    """Of all that still speak; the others are marked as silent."""
    for node, talk in asked:
        if node.silent is None:
            try:
                yield node, talk.hear()
            except Silent as silence:
                node.silent, node.code = str(silence), silence.code


def _on_gpus(nodes: list[Node]) -> bool:
    return all(node.facts is not None and node.facts.usable_gpus > 0 for node in nodes)
