"""Ranks that differ are refused by name, and a run folder without room. Facts are written here."""

from dataclasses import replace
from pathlib import Path

import pytest

from bigpeft.errors import FileError, UserError
from bigpeft.train.alike import Ran, refuse_unlike
from bigpeft.train.folder import open_run
from bigpeft.world import World
from tests.disks import fill, small_disk

RAN = Ran("a", 8, {"python": "3.12.1", "torch": "2.13.0"}, "0123", "4567")


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        (
            {"versions": {"python": "3.12.1", "torch": "2.12.0"}},
            "host b: has torch 2.12.0 where a has 2.13.0\n  fix: install the versions of a there",
        ),
        ({"versions": {"python": "3.12.1"}}, "host b: has torch none where a has 2.13.0"),
        ({"code": "89ab"}, "host b: has other files of bigpeft than a (89ab, 0123)\n  fix: bring"),
        ({"recipe": "89ab"}, "recipe: is another one on b than on a\n  fix: copy the same file"),
        ({"local_size": 4}, "host b: runs 4 ranks where a runs 8\n  fix: give every node"),
    ],
)
def test_the_host_that_differs_is_named_with_the_fix(
    differing: dict[str, object], said: str
) -> None:
    other = replace(RAN, **{"host": "b", **differing})

    with pytest.raises(UserError) as caught:
        refuse_unlike([RAN, RAN, other, other])

    assert str(caught.value).startswith(said)


def test_ranks_that_run_the_same_may_go_on() -> None:
    refuse_unlike([RAN, RAN, replace(RAN, host="b"), replace(RAN, host="b")])


def test_a_run_folder_on_a_full_disk_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk)
        with (
            pytest.raises(FileError, match=r"written on here \(No space left") as caught,
            open_run(disk, True, World(host="here")),
        ):
            pass

        assert [file.name for file in disk.iterdir()] == ["ballast"]
    assert "fix: make room" in str(caught.value)
