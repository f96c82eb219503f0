"""What the nodes run: the same versions, the same code, the same files."""

from collections.abc import Iterator

from bigpeft.doctor.problem import Answered, Problem
from bigpeft.train.program import MISSING


def same_machine(answered: Answered) -> Iterator[Problem]:
    """Two names of the hostfile for one machine."""
    known: dict[str, str] = {}
    for node, facts in answered:
        if facts.machine in known:
            yield Problem(
                node.host,
                f"is the same machine as {known[facts.machine]}",
                "keep one line of the hostfile for it, with all its slots",
            )
        known.setdefault(facts.machine, node.host)


def versions(answered: Answered) -> Iterator[Problem]:
    """As on the first node, and nothing missing."""
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


def inputs(answered: Answered) -> Iterator[Problem]:
    """Files that every rank reads."""
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
