"""The doctor and a run over ssh between two nodes, in good order and with faults.

Oracles: both nodes have one clock; the faults are made here.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bigpeft
from tests.nodes import ADDRESSES, INTERFACE, NAMES, Nodes, skip_without_nodes, two_nodes

A, B = ADDRESSES
NOBODY = "10.77.0.9"
CODE = Path(bigpeft.__file__).parent / "errors.py"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    skip_without_nodes()
    with two_nodes(tmp_path_factory.mktemp("nodes")) as both:
        yield both


@pytest.fixture
def other_code(tmp_path: Path) -> Path:
    """One of bigpeft's files, with a line more."""
    changed = tmp_path / "changed.py"
    changed.write_text(CODE.read_text() + "\n# another commit\n")
    return changed


def _ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


def _doctor(nodes: Nodes, hostfile: Path, *arguments: object) -> tuple[int, str]:
    words = (sys.executable, "-m", "bigpeft", "doctor", "--hostfile", hostfile)
    return _ended(nodes.start(*words, "--recipe", "recipes/debug.yaml", *arguments))


def _problems(said: str) -> list[tuple[str, str, str]]:
    return [tuple(problem.values()) for problem in json.loads(said)["problems"]]


def test_a_pair_in_good_order_is_fine_and_has_measured_what_joins_it(
    nodes: Nodes, tmp_path: Path
) -> None:
    folder = f"run.folder={tmp_path / 'run'}"

    code, said = _doctor(nodes, nodes.hostfile(1), folder, "--json")

    found: dict[str, Any] = json.loads(said)
    assert (code, found["verdict"], found["problems"]) == (0, "fine", [])
    assert [(node["host"], node["slots"]) for node in found["nodes"]] == [(A, 1), (B, 1)]
    assert [node["route"] for node in found["nodes"]] == [[INTERFACE, A], [INTERFACE, B]]
    for node in found["nodes"]:
        assert abs(node["clock"]["ahead"]) <= node["clock"]["within"]
        assert node["facts"]["gloo_has_interface"], "the launcher gives GLOO_SOCKET_IFNAME"
    measured = found["collectives"]
    assert (measured["ranks"], measured["backend"]) == (2, "gloo")
    assert measured["all_reduce"] > 0
    assert measured["broadcast"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_answer_is_named(nodes: Nodes, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{A} slots=1\n{NOBODY} slots=1\n")

    code, said = _doctor(nodes, hosts, "--json")

    assert code == 2
    ((what, why, fix),) = _problems(said)
    assert what == NOBODY
    assert why.startswith("cannot be reached by ssh (ssh: connect to host")
    assert fix == "check that it is up and runs sshd, or take its line out of the hostfile"


def test_faults_of_one_node_are_named_with_their_fixes_on_one_page(
    nodes: Nodes, tmp_path: Path, other_code: Path
) -> None:
    """A run folder of its own without room, other code there; a port in use on the first node."""
    folder = tmp_path / "run"
    folder.mkdir()
    listener = nodes.start(sys.executable, "-c", LISTEN)
    assert listener.stdout is not None
    port = int(listener.stdout.readline())
    disk = ("-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)

    with nodes.mounted(1, *disk), nodes.mounted(1, "--bind", other_code, CODE):
        code, said = _doctor(
            nodes,
            nodes.hostfile(1),
            f"run.folder={folder}",
            *("--master-port", port, "--json"),
        )
    listener.kill()
    listener.communicate()

    assert code == 2
    assert json.loads(said)["collectives"] is None
    changed, full, unshared, used = _problems(said)
    assert changed[:2][0] == B
    assert changed[1].startswith(f"has other files of bigpeft than {A} (")
    assert changed[2].startswith("bring all nodes to the same commit")
    assert full == (
        f"{B}, run.folder {folder}",
        "has 0.0 GiB of free disk",
        "free at least 1.0 GiB there, or choose another run.folder",
    )
    assert unshared == (
        B,
        f"does not share run.folder {folder} with {A}",
        "mount the same disk at the same path on every node, or choose a run.folder on one",
    )
    assert used[:2] == (A, f"uses port {port} already, where all ranks would meet")
    assert f"--master-port {port + 1}" in used[2]


LISTEN = """
import socket
with socket.socket() as other:
    other.bind(("", 0))
    other.listen()
    print(other.getsockname()[1], flush=True)
    other.accept()
"""


def _refused(nodes: Nodes, folder: Path) -> tuple[str, str]:
    """What the ranks of a run say, one on each node, that ends before its model is there."""
    common = "WORLD_SIZE=2 LOCAL_WORLD_SIZE=1 LOCAL_RANK=0 DS_ACCELERATOR=cpu OMP_NUM_THREADS=1"
    common += f" MASTER_ADDR={A} MASTER_PORT=29511 GLOO_SOCKET_IFNAME={INTERFACE}"
    common += f" PYTHONPATH={Path.cwd()}"
    words = f"{sys.executable} launch/train.py --recipe recipes/debug.yaml run.folder={folder}"
    ranks = [
        nodes.start("ssh", address, f"cd {Path.cwd()} && {common} RANK={rank} {words}")
        for rank, address in enumerate(ADDRESSES)
    ]
    first, second = map(_ended, ranks)
    assert (first[0], second[0]) == (2, 2), first[1] + second[1]
    assert "Traceback" not in first[1] + second[1]
    assert not (folder / "recipe.yaml").exists()
    return first[1], second[1]


def test_a_run_whose_nodes_have_other_code_is_refused_by_all_ranks(
    nodes: Nodes, tmp_path: Path, other_code: Path
) -> None:
    with nodes.mounted(1, "--bind", other_code, CODE):
        said = _refused(nodes, tmp_path / "run")

    for one in said:
        assert f"host {NAMES[1]}: has other files of bigpeft than {NAMES[0]} (" in one
        assert "fix: bring all nodes to the same commit" in one


def test_a_run_whose_folder_is_not_shared_is_refused_by_all_ranks(
    nodes: Nodes, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    with nodes.mounted(1, "-t", "tmpfs", "tmpfs", folder):
        said = _refused(nodes, folder)

    why = f"is not shared: {NAMES[1]} does not see what {NAMES[0]} writes there"
    for one in said:
        assert f"run.folder: {folder}: {why}\n" in one
        assert "fix: mount the same disk at the same path on every node" in one
    assert list(folder.glob(".nodes-*")) == []


def test_a_node_that_cannot_write_lets_no_other_wait_for_it(nodes: Nodes, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    with nodes.mounted(1, "-t", "tmpfs", "-o", "ro", "tmpfs", folder):
        here, there = _refused(nodes, folder)

    said = f"run.folder: {folder}: cannot be written on {NAMES[1]} (Read-only file system)\n"
    assert there.startswith(said)
    assert here.startswith(f"rank 1 on {NAMES[1]}: {said}")
