"""What the facts mean: pure judgement, one named problem with its fix for each thing wrong."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from bigpeft.doctor.facts import MISSING, Facts
from bigpeft.doctor.talk import Clock

SKEW = 1.0  # seconds
FREE_DISK = 1 << 30  # bytes
MEMORY_OF_A_RANK = 1 << 29  # bytes: torch, DeepSpeed and transformers before any weight
_NAMED = 3  # hosts in one sentence
_SSH_FAILED, _NO_COMMAND = 255, (126, 127)


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


_Answered = list[tuple[Node, Facts]]


def judge(nodes: list[Node], port: int) -> list[Problem]:
    """All problems of these nodes, those that hide others first."""
    answered = [(node, node.facts) for node in nodes if node.facts is not None]
    found = [_silent(node) for node in nodes if node.silent is not None]
    rules: list[Callable[[_Answered], Iterator[Problem]]] = [
        _same_machine,
        _versions,
        _inputs,
        _gpus,
        _memory,
        _disks,
        _shared,
        _clocks,
        _network,
    ]
    for rule in rules:
        found += rule(answered)
    return _merged([*found, *_port(answered[:1], port)])


def _merged(problems: list[Problem]) -> list[Problem]:
    """What is wrong in the same way in many places is said once."""
    places: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        places.setdefault((problem.why, problem.fix), []).append(problem.what)
    return [Problem(", ".join(what), why, fix) for (why, fix), what in places.items()]


def can_launch(nodes: list[Node]) -> bool:
    """Whether a launch could tell more than is known already."""
    facts = [node.facts for node in nodes if node.silent is None and node.facts is not None]
    return (
        len(facts) == len(nodes)
        and facts[0].port_is_free
        and len({each.code for each in facts}) == 1
        and len({each.machine for each in facts}) == len(facts)
        and not (len(facts) > 1 and any(_is_out_of_reach(each) for each in facts))
    )


def _is_out_of_reach(facts: Facts) -> bool:
    """Gloo listens at the address of the host's name; NCCL finds an interface by itself."""
    return facts.usable_gpus == 0 and facts.name_is_loopback and not facts.chosen_interface


def _silent(node: Node) -> Problem:
    said = node.silent or ""
    if node.code in _NO_COMMAND:
        why, fix = (
            f"has no Python where this machine has one ({said})",
            ("install the same environment at the same path on every node, or share its folder"),
        )
    elif node.code != _SSH_FAILED:
        why, fix = (
            f"cannot run bigpeft ({said})",
            ("install the same bigpeft in the same folder on every node, or share that folder"),
        )
    else:
        why, fix = f"cannot be reached by ssh ({said})", _fix_of_ssh(node.host, said)
    return Problem(node.host, why, fix)


def _fix_of_ssh(host: str, said: str) -> str:
    if "Permission denied" in said:
        return f"let ssh in without a password: ssh-copy-id {host}"
    if "Host key verification failed" in said:
        return f"make its key known: ssh-keyscan {host} >> ~/.ssh/known_hosts"
    if "resolve" in said:
        return "mend the name in the hostfile, or add it to /etc/hosts on every node"
    return "check that it is up and runs sshd, or take its line out of the hostfile"


def _same_machine(answered: _Answered) -> Iterator[Problem]:
    known: dict[str, str] = {}
    for node, facts in answered:
        if facts.machine in known:
            yield Problem(
                node.host,
                f"is the same machine as {known[facts.machine]}",
                "keep one line of the hostfile for it, with all its slots",
            )
        known.setdefault(facts.machine, node.host)


def _versions(answered: _Answered) -> Iterator[Problem]:
    """The first node is the measure."""
    for node, facts in answered:
        if absent := [name for name, found in facts.versions.items() if found == MISSING]:
            yield Problem(
                node.host,
                f"lacks {', '.join(absent)}",
                "install bigpeft there: pip install bigpeft",
            )
    for node, facts in answered[1:]:
        first, measure = answered[0]
        differing = [
            f"{name} {found} where {first.host} has {measure.versions[name]}"
            for name, found in facts.versions.items()
            if found != measure.versions[name] and MISSING not in (found, measure.versions[name])
        ]
        if differing:
            fix = f"install the versions of {first.host} there"
            yield Problem(node.host, f"has {'; '.join(differing)}", fix)
        if facts.code != measure.code and facts.versions["bigpeft"] == measure.versions["bigpeft"]:
            yield Problem(
                node.host,
                f"has other files of bigpeft than {first.host} ({facts.code}, {measure.code})",
                "bring all nodes to the same commit, or run from a folder that they share",
            )


def _inputs(answered: _Answered) -> Iterator[Problem]:
    for node, facts in answered:
        for path, digest in facts.inputs.items():
            if digest == MISSING:
                yield Problem(
                    node.host,
                    f"does not see {path}",
                    "copy it there, or use a folder all nodes see",
                )
            elif digest != answered[0][1].inputs[path] != MISSING:
                yield Problem(
                    node.host,
                    f"has another {path} than {answered[0][0].host}",
                    "copy the same file to every node, or use a folder all nodes see",
                )


def _gpus(answered: _Answered) -> Iterator[Problem]:
    on_gpus = any(facts.gpus for _, facts in answered)
    for node, facts in answered:
        if facts.gpus and facts.usable_gpus == 0:
            yield Problem(
                node.host,
                f"has {len(facts.gpus)} GPUs that torch {facts.versions['torch']} cannot use "
                f"(driver {facts.driver})",
                "update the driver, or install the torch that is built for it",
            )
        elif on_gpus and facts.usable_gpus < node.slots:
            yield Problem(
                node.host,
                f"has {node.slots} slots and {facts.usable_gpus} GPUs",
                f"write slots={facts.usable_gpus} for every node, or leave this one out",
            )


def _memory(answered: _Answered) -> Iterator[Problem]:
    for node, facts in answered:
        needed = MEMORY_OF_A_RANK * max(1, node.slots)
        if facts.memory < needed:
            yield Problem(
                node.host,
                f"has {gib(facts.memory)} of free memory for {node.slots} ranks, which take "
                f"{gib(needed)} before any weight",
                "end other programs there, or give it fewer slots",
            )


def _disks(answered: _Answered) -> Iterator[Problem]:
    for node, facts in answered:
        for key, disk in facts.disks.items():
            if disk.free < FREE_DISK:
                yield Problem(
                    f"{node.host}, {key} {disk.path}",
                    f"has {gib(disk.free)} of free disk",
                    f"free at least {gib(FREE_DISK)} there, or choose another {key}",
                )
        if node.unwritable:
            yield Problem(
                f"{node.host}, run.folder {facts.disks['run.folder'].path}",
                f"cannot be written and locked in {facts.disks['run.folder'].at} "
                f"({node.unwritable})",
                "mend its permissions or mount options, or choose another run.folder",
            )


def _shared(answered: _Answered) -> Iterator[Problem]:
    for node, facts in answered:
        where = f"run.folder {facts.disks['run.folder'].path}"
        if node.unseen:
            many = len(node.unseen) > _NAMED
            others = f"{len(node.unseen)} other nodes" if many else ", ".join(node.unseen)
            yield Problem(
                node.host,
                f"does not share {where}: it does not see what {others} wrote there",
                "mount the same disk at the same path on every node, or choose a run.folder on one",
            )
        elif node.sees_old:
            yield Problem(
                node.host,
                f"sees an old file in {where} after another is renamed over it",
                "mount it with a shorter attribute cache (NFS: actimeo=3), or use another disk",
            )


def _clocks(answered: _Answered) -> Iterator[Problem]:
    """Against the first node, so that the doctor's own clock does not count."""
    known = [(node.host, node.clock) for node, _ in answered if node.clock is not None]
    for host, clock in known[1:]:
        first, measure = known[0]
        skew = clock.ahead - measure.ahead
        if abs(skew) - clock.within - measure.within > SKEW:
            side = "ahead of" if skew > 0 else "behind"
            yield Problem(
                host,
                f"has a clock {abs(skew):.1f} s {side} that of {first}",
                "keep the clocks of all nodes with chrony or ntpd",
            )


def _network(answered: _Answered) -> Iterator[Problem]:
    for node, facts in answered:
        for name, value in facts.interfaces.items():
            yield Problem(
                node.host,
                f"has no network interface {value}, which {name} names",
                f"name one that every node has in .deepspeed_env: {name}=INTERFACE",
            )
    if len(answered) < 2:
        return
    for node, facts in answered:
        if _is_out_of_reach(facts):
            interface = node.route[0] if node.route and node.route[0] else "INTERFACE"
            yield Problem(
                node.host,
                "lets its own name mean 127.0.0.1, where other nodes' gloo cannot reach it",
                f"write GLOO_SOCKET_IFNAME={interface} into .deepspeed_env, or mend /etc/hosts",
            )


def _port(first: _Answered, port: int) -> Iterator[Problem]:
    for node, facts in first:
        if not facts.port_is_free:
            yield Problem(
                node.host,
                f"uses port {port} already, where all ranks would meet",
                f"end the other run, or choose another: --master-port {port + 1}, for deepspeed "
                f"--master_port {port + 1}",
            )


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB"
