"""A hostfile is read as DeepSpeed reads it (the oracle), and its mistakes have one message."""

from pathlib import Path

import pytest
from deepspeed.launcher.runner import fetch_hostfile
from hypothesis import given
from hypothesis import strategies as some

from bigpeft.errors import FileError
from bigpeft.hostfile import Hostfile


def _written(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_a_hostfile_names_the_nodes_that_deepspeed_would_start(tmp_path: Path) -> None:
    path = _written(tmp_path, "# ours\n\nb-1 slots=4\n  10.0.0.2\tslots=4 # second\nme@c slots=4\n")

    nodes = Hostfile.read(path)

    assert dict(nodes) == fetch_hostfile(path)
    assert [host for host, _ in nodes] == ["b-1", "10.0.0.2", "me@c"]
    assert (len(nodes), nodes.slots) == (3, 4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        ("# none\n\n", "names no host"),
        ("a slots=2\nb\n", "line 2: is no host with slots: 'b'"),
        ("a slots=two\n", "line 1: is no host with slots"),
        ("a slots=2x\n", "line 1: is no host with slots"),
        ("a slots=-2\n", "line 1: is no host with slots"),
        ("a slots = 2\n", "line 1: is no host with slots"),
        ("a slots=0\n", "line 1: gives a no slot"),
        ("a slots=2\n\na slots=2\n", "line 3: names a again, after line 1"),
        ("node[1-4] slots=2\n", "line 1: is no name of one host: 'node[1-4]'"),
        ("a,b slots=2\n", "line 1: is no name of one host"),
        ("-oProxyCommand=x slots=2\n", "line 1: is no name of one host"),
        ("a slots=8\nb slots=4\n", "has uneven slots: a has 8, b has 4\n  fix: write slots=4"),
    ],
)
def test_a_mistake_in_a_hostfile_is_named_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    path = _written(tmp_path, text)

    with pytest.raises(FileError) as caught:
        Hostfile.read(path)

    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_fewer_nodes_than_asked_for_are_refused_and_more_are_left_out(tmp_path: Path) -> None:
    path = _written(tmp_path, "a slots=8\nb slots=8\nc slots=4\n")

    assert [*Hostfile.read(path, nodes=2)] == [("a", 8), ("b", 8)]
    with pytest.raises(FileError, match="names 3 nodes where 4 are asked for"):
        Hostfile.read(path, nodes=4)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        Hostfile.read(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="is no text"):
        Hostfile.read(tmp_path / "bytes")


@given(text=some.text(alphabet="ab1 \t\n#slots=[],-@\x85", max_size=60))
def test_what_is_accepted_means_the_same_to_deepspeed(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = _written(tmp_path_factory.mktemp("hosts"), text)

    try:
        nodes = Hostfile.read(path)
    except FileError:
        return

    assert dict(nodes) == fetch_hostfile(path)
