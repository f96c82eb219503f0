"""What the facts mean: pure judgement, one named problem with its fix for each thing wrong."""

from collections.abc import Callable, Iterator

from bigpeft.doctor import hardware, software
from bigpeft.doctor.problem import Answered, Node, Problem

_SSH_FAILED, _NO_COMMAND = 255, (126, 127)
_RULES: list[Callable[[Answered], Iterator[Problem]]] = [
    software.same_machine,
    software.versions,
    software.inputs,
    hardware.gpus,
    hardware.memory,
    hardware.disks,
    hardware.shared,
    hardware.clocks,
    hardware.network,
]


def judge(nodes: list[Node], port: int) -> list[Problem]:
    """All problems of these nodes, those that hide others first."""
    answered = [(node, node.facts) for node in nodes if node.facts is not None]
    found = [_silent(node) for node in nodes if node.silent is not None]
    for rule in _RULES:
        found += rule(answered)
    return _merged([*found, *hardware.port_in_use(answered[:1], port)])


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
        and not (len(facts) > 1 and any(hardware.is_out_of_reach(each) for each in facts))
    )


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
