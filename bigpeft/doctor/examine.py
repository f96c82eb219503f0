"""The examination: every node speaks for itself, then all of them together."""

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bigpeft.doctor.collectives import Collectives, measure
from bigpeft.doctor.facts import Disk, Facts
from bigpeft.doctor.judge import Node, Problem, can_launch, judge
from bigpeft.doctor.marks import FIRST, SECOND
from bigpeft.doctor.talk import Silent, Talk
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
    """Examine this machine, or all nodes of a hostfile."""
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
    """Ways to each other, and what each sees of the others' marks. A node may fall silent."""
    (first, writer), (second, _), *_ = answering
    marks = {node.host: FIRST for node, _ in answering if not node.unwritable}
    for node, talk in answering:
        peer = first if node is not first else second
        assert peer.facts is not None
        try:
            address = (peer.facts.addresses or (peer.host.rpartition("@")[2],))[0]
            node.route = tuple(talk.ask(route=address, port=wanted.port)["route"])
            seen = talk.ask(look=marks, patience=_APPEARS)["seen"]
            node.unseen = [host for host, text in seen.items() if text != FIRST]
        except Silent as silence:
            node.silent, node.code = str(silence), silence.code
    with suppress(Silent):  # whoever falls silent only here is found by the launch
        if first.silent or first.unwritable or writer.ask(write=SECOND)["unwritable"]:
            return
        for node, talk in answering:
            if node.silent is None and not node.unseen:
                seen = talk.ask(look={first.host: SECOND}, patience=_RENAMED)["seen"]
                node.sees_old = seen[first.host] != SECOND


def _on_gpus(nodes: list[Node]) -> bool:
    return all(node.facts is not None and node.facts.usable_gpus > 0 for node in nodes)
