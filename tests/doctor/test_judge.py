"""Facts that cannot be made here (skewed clocks, GPUs), and what the doctor says of them."""

from dataclasses import replace

import pytest

from bigpeft.doctor.facts import Disk, Facts
from bigpeft.doctor.judge import can_launch, judge
from bigpeft.doctor.problem import Node
from bigpeft.doctor.talk import Clock

GIB = 1 << 30
FACTS = Facts(
    machine="boot/1",
    versions={"python": "3.12.1", "bigpeft": "0.1.0", "torch": "2.13.0"},
    code="0123",
    gpus=("NVIDIA H100",) * 8,
    usable_gpus=8,
    driver="580.1",
    memory=900 * GIB,
    disks={"run.folder": Disk("/data/run", "/data", 500 * GIB)},
    inputs={"/data/r.yaml": "aa"},
    addresses=("10.0.0.1",),
    name_is_loopback=True,
    interfaces={},
    gloo_has_interface=False,
    port_is_free=True,
)
CPU = {"gpus": (), "usable_gpus": 0, "driver": "none"}


def _pair(**second: object) -> list[Node]:
    """Two nodes in good order but for what differs on the second."""
    other = replace(FACTS, **{"machine": "boot/2", **second})
    clock = Clock(0.0, 0.001)
    return [
        Node("a", 8, facts=FACTS, clock=clock, route=("eth0", "10.0.0.1")),
        Node("b", 8, facts=other, clock=clock, route=("eth0", "10.0.0.2")),
    ]


def _said(nodes: list[Node]) -> str:
    return "\n".join(map(str, judge(nodes, 29500)))


def test_two_nodes_in_good_order_have_no_problem() -> None:
    assert judge(_pair(), 29500) == []
    assert can_launch(_pair())


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        ({"machine": "boot/1"}, "b: is the same machine as a"),
        (
            {"versions": {**FACTS.versions, "torch": "2.12.0"}},
            "b: has torch 2.12.0 where a has 2.13.0\n  fix: install the versions of a",
        ),
        ({"versions": {**FACTS.versions, "torch": "missing"}}, "b: lacks torch"),
        ({"code": "4567"}, "b: has other files of bigpeft than a (4567, 0123)"),
        ({"inputs": {"/data/r.yaml": "missing"}}, "b: does not see /data/r.yaml"),
        ({"inputs": {"/data/r.yaml": "bb"}}, "b: has another /data/r.yaml than a"),
        ({"usable_gpus": 6}, "b: has 8 slots and 6 GPUs\n  fix: write slots=6"),
        (CPU, "b: has 8 slots and 0 GPUs\n  fix: take its line out"),
        ({"usable_gpus": 0}, "b: has 8 GPUs that torch 2.13.0 cannot use (driver 580.1)"),
        ({"memory": GIB}, "b: has 1.0 GiB of free memory for 8 ranks"),
        (
            {"disks": {"run.folder": Disk("/data/run", "/data", 0)}},
            "b, run.folder /data/run: has 0.0 GiB of free disk\n  fix: free at least 1.0 GiB",
        ),
        (
            {"interfaces": {"NCCL_SOCKET_IFNAME": "ib0"}},
            "b: has no network interface ib0, which NCCL_SOCKET_IFNAME names",
        ),
    ],
)
def test_what_differs_on_a_node_is_named_with_its_fix(
    differing: dict[str, object], said: str
) -> None:
    assert said in _said(_pair(**differing))
    assert "fix: " in _said(_pair(**differing))


@pytest.mark.parametrize(
    ("ahead", "within", "said"),
    [
        (4.0, 0.01, "b: has a clock 4.0 s ahead of that of a\n  fix: keep the clocks"),
        (-4.0, 0.01, "b: has a clock 4.0 s behind that of a"),
        (0.9, 0.01, ""),
        (4.0, 5.0, ""),
    ],
)
def test_a_clock_is_wrong_only_beyond_what_the_network_hides(
    ahead: float, within: float, said: str
) -> None:
    nodes = _pair()
    nodes[1].clock = Clock(ahead, within)

    assert _said(nodes) == "" if not said else said in _said(nodes)


def test_the_clock_of_the_doctors_own_machine_does_not_count() -> None:
    nodes = _pair()
    nodes[0].clock = nodes[1].clock = Clock(60.0, 0.01)

    assert judge(nodes, 29500) == []


@pytest.mark.parametrize(
    ("why", "code", "said"),
    [
        ("me@b: Permission denied (publickey).", 255, "ssh-copy-id b"),
        ("Host key verification failed.", 255, "ssh-keyscan b"),
        ("ssh: Could not resolve hostname b", 255, "mend the name in the hostfile"),
        ("ssh: connect to host b port 22: Connection timed out", 255, "take its line out"),
        ("sh: 1: exec: /venv/bin/python: not found", 127, "the same environment"),
        ("No module named bigpeft.doctor", 1, "cannot run bigpeft (No module"),
        ("gave no answer in 90 s", None, "cannot run bigpeft (gave no answer"),
    ],
)
def test_a_silent_node_has_the_fix_for_what_its_ssh_said(
    why: str, code: int | None, said: str
) -> None:
    nodes = [_pair()[0], Node("b", 8, silent=why, code=code)]

    assert said in _said(nodes)
    assert not can_launch(nodes)


def test_many_nodes_with_the_same_fault_are_one_message() -> None:
    facts = [replace(FACTS, machine=f"boot/{number}") for number in range(5)]
    nodes = [Node(name, 8, facts=each) for name, each in zip("abcde", facts, strict=True)]
    for node in nodes:
        node.unseen = [other.host for other in nodes if other is not node]

    (problem,) = judge(nodes, 29500)

    assert problem.what == "b, c, d, e"
    assert problem.why == "does not share run.folder /data/run with a"


def test_only_the_node_whose_folder_is_its_own_is_named() -> None:
    facts = [replace(FACTS, machine=f"boot/{number}") for number in range(3)]
    nodes = [Node(name, 8, facts=each) for name, each in zip("abc", facts, strict=True)]
    for node, unseen in zip(nodes, (["b"], ["a", "c"], ["b"]), strict=True):
        node.unseen = unseen

    (problem,) = judge(nodes, 29500)

    assert (problem.what, problem.why) == ("b", "does not share run.folder /data/run with a")


def test_a_renamed_file_that_is_seen_late_is_named() -> None:
    nodes = _pair()
    nodes[1].sees_old = True

    assert _said(nodes).startswith("b: sees an old file in run.folder /data/run")


def test_gloo_is_not_launched_where_a_name_means_loopback_and_nccl_is() -> None:
    nodes = _pair(**CPU)
    nodes[0].facts = replace(FACTS, **CPU)

    assert "write GLOO_SOCKET_IFNAME=eth0 into .deepspeed_env" in _said(nodes)
    assert not can_launch(nodes)
    assert not can_launch([*nodes[:1], Node("b", 8, silent="?", code=255)])
    assert can_launch(nodes[:1])
    assert can_launch(_pair())
