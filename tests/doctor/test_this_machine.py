"""The doctor on this machine alone: a real launch, a full disk, a port in use."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bigpeft.cli import doctor
from bigpeft.doctor import Wanted, examine
from bigpeft.errors import RecipeError, UserError
from bigpeft.hostfile import Hostfile
from bigpeft.train.program import digest_of_code
from tests.disks import fill, small_disk
from tests.worlds import free_port


def _doctor(*arguments: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "bigpeft", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "COLUMNS": "200"},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_machine_in_good_order_is_fine_and_has_measured_its_ranks(tmp_path: Path) -> None:
    recipe = ["--recipe", "recipes/debug.yaml", f"run.folder={tmp_path / 'new' / 'run'}"]

    code, said, _ = _doctor(*recipe, "--master-port", free_port(), "--json")

    found: dict[str, Any] = json.loads(said)
    assert (code, found["verdict"], found["problems"]) == (0, "fine", [])
    assert found["collectives"]["ranks"] == found["nodes"][0]["slots"]
    assert found["collectives"]["all_reduce"] > 0
    assert found["collectives"]["broadcast"] > 0
    assert found["nodes"][0]["facts"]["code"] == digest_of_code()
    assert found["nodes"][0]["facts"]["disks"]["run.folder"]["at"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_and_a_port_in_use_are_named_on_one_page(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk, socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        fill(disk)
        port = other.getsockname()[1]

        code, said, complaint = _doctor(
            *("--recipe", "recipes/debug.yaml", f"run.folder={disk / 'run'}"),
            *("--master-port", port),
        )

    assert code == 2, complaint
    where = f"this machine, run.folder {disk / 'run'}"
    assert f"{where}: has 0.0 GiB of free disk\n  fix: free at least 1.0 GiB there" in said
    assert f"{where}: cannot be written and locked in {disk} (No space left on device)" in said
    assert f"this machine: uses port {port} already" in said
    assert said.splitlines()[-1] == "3 problems: mend what is named above"


def test_a_folder_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1) as disk:
        fill(disk)
        with socket.socket() as other:
            other.bind(("", 0))
            other.listen()

            found = examine(Wanted(None, {"run.folder": str(disk)}, port=other.getsockname()[1]))

        assert found.collectives is None
        assert [file.name for file in disk.iterdir()] == ["ballast"]


def test_a_missing_hostfile_is_no_invitation_to_examine_this_machine() -> None:
    code, said, complaint = _doctor("--hostfile", "none")

    assert (code, said) == (2, "")
    assert complaint.startswith("hostfile none: cannot be read (No such file or directory)")


def test_a_machine_without_ssh_cannot_examine_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").write_text("a slots=1\n")
    nodes = Hostfile.read(tmp_path / "hosts")
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UserError, match="ssh: is not installed on this machine"):
        examine(Wanted(nodes, {"run.folder": str(tmp_path)}))


def test_an_override_without_a_recipe_is_refused() -> None:
    with pytest.raises(RecipeError, match="changes no recipe"):
        doctor.doctor(["run.folder=x"])


def test_the_digest_changes_with_any_file_and_not_with_compiled_ones(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    before = digest_of_code(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("1")
    assert digest_of_code(tmp_path) == before

    (tmp_path / "a.py").write_text("2")

    assert digest_of_code(tmp_path) != before
