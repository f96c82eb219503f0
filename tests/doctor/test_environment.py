"""The variables of another node. Oracles: DeepSpeed's own launcher, a shell."""

import os
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from deepspeed.launcher.multinode_runner import PDSHRunner

from bigpeft.doctor.environment import exported, on_node
from bigpeft.errors import FileError

LINES = ["GLOO_SOCKET_IFNAME=eth0", "OPTIONS=-a -b", "WHERE=$HOME/x", " SPACED = y "]


@pytest.fixture
def environment_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "variables"
    monkeypatch.setenv("DS_ENV_FILE", str(file))
    return file


def _shell(line: str) -> dict[str, str]:
    said = subprocess.check_output(["/bin/sh", "-c", line], text=True, env={"HOME": "/h"})
    return dict(pair.split("=", 1) for pair in said.split("\0") if "=" in pair)


def test_a_node_gets_the_values_that_the_launcher_would_give_it(environment_file: Path) -> None:
    environment_file.write_text("\n".join(LINES) + "\n")
    launcher = PDSHRunner(Namespace(user_args=[], user_script=""), "")
    for line in LINES:
        launcher.add_export(*line.split("=", 1))
    theirs = "".join(f"export {name}={value}; " for name, value in launcher.exports.items())

    ours = _shell(on_node(["/usr/bin/env", "-0"]))

    expected = _shell(f"{theirs} exec /usr/bin/env -0")
    assert {name: ours.get(name) for name in expected if name != "PWD"} == {
        name: value for name, value in expected.items() if name != "PWD"
    }
    assert ours["OPTIONS"] == "-a -b"


@pytest.mark.parametrize("line", ["", "# NCCL", "# A=1", "NCCL_DEBUG"])
def test_a_line_that_the_launcher_cannot_take_is_named(environment_file: Path, line: str) -> None:
    environment_file.write_text(f"A=1\n{line}\nB=2\n")

    with pytest.raises(FileError, match="variables, line 2: is no variable") as caught:
        exported(os.environ)

    assert "keep nothing but lines NAME=VALUE" in str(caught.value)
