"""Rendered launches. Oracles: shellcheck, Kubernetes' schemas, bash, and the shell's quoting."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import UserError
from bigpeft.hostfile import Hostfile
from bigpeft.launch import Job, k8s, slurm, ssh

RECIPES = sorted(Path("recipes").glob("*.yaml"))
DEBUG = "recipes/debug.yaml"
AWKWARD = 'data.path=it\'s "a" $(rm) `x` \\ {{ y }} $HOME.jsonl'


def launch(*words):
    return CliRunner().invoke(app, ["launch", *map(str, words)])


def job(*overrides, recipe=DEBUG, run="runs/x y", nodes=4):
    return Job(Path(recipe), overrides, run, "a-name", nodes, 8)


def shellchecked(text, severity="style"):
    words = ["shellcheck", f"--severity={severity}", "-"]
    return subprocess.run(words, input=text, capture_output=True, text=True).stdout


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_batch_script_and_a_job(recipe):
    script = launch("slurm", "--recipe", recipe, "--nodes", 4, "--partition", "gpu")
    manifest = launch(
        "k8s", "--recipe", recipe, "--nodes", 4, "--image", "repo/bigpeft:1", "--claim", "shared"
    )

    assert script.exit_code == manifest.exit_code == 0, script.output + manifest.output
    assert shellchecked(script.output) == ""
    for document in yaml.safe_load_all(manifest.output):
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_a_batch_script_quotes_what_a_shell_would_read():
    script = slurm.script(job(AWKWARD), "1:00:00", 60, interface="ib0")

    assert shellchecked(script, "warning") == ""  # that nothing is expanded is meant
    assert arguments(script) == ["--recipe", DEBUG, AWKWARD, "checkpoint.resume=auto"]


def arguments(script):
    """Of launch/train.py, as a shell reads them."""
    (line,) = [line for line in script.splitlines() if line.startswith("srun ")]
    return shlex.split(line.removesuffix(" &"))[5:]


words = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1).map(
    "a.b={}".format
)


@settings(deadline=None)
@given(st.lists(words, max_size=3))
def test_any_override_arrives_as_it_was_given(overrides):
    wanted = ["--recipe", DEBUG, *overrides, "checkpoint.resume=auto"]
    documents = yaml.safe_load_all(k8s.manifests(job(*overrides), "i", "c", "/work", 60, "n"))
    _, manifest = documents
    (container,) = manifest["spec"]["template"]["spec"]["containers"]

    assert arguments(slurm.script(job(*overrides), "1:00:00", 60)) == wanted
    told = [word.replace("$$(", "$(") for word in container["command"]]
    assert told[told.index("launch/train.py") + 1 :] == wanted


@pytest.fixture
def cluster(tmp_path):
    """A bash with a scheduler of two commands, which note what they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in {
        "scontrol": '[ "$1" = show ] && printf "node-7\\nnode-8\\n" || echo "$@" >> "$NOTES"',
        "srun": 'echo "srun $MASTER_ADDR $MASTER_PORT" >> "$NOTES"; eval "$RANKS"',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)

    def start(script, ranks):
        (tmp_path / "job.sh").write_text(script)
        environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "NOTES": str(tmp_path / "notes"),
            "RANKS": ranks,
            "SLURM_JOB_ID": "41",
            "SLURM_JOB_NODELIST": "node-[7-8]",
        }
        return subprocess.Popen(["bash", tmp_path / "job.sh"], cwd=tmp_path, env=environment)

    return start, tmp_path


@pytest.mark.parametrize(("code", "again"), [(0, False), (1, False), (2, False), (75, True)])
def test_a_batch_script_queues_itself_again_where_a_checkpoint_can_go_on(code, again, cluster):
    start, folder = cluster

    ended = start(slurm.script(job(), "1:00:00", 60), f"exit {code}").wait(timeout=20)

    notes = (folder / "notes").read_text().splitlines()
    assert ended == code
    assert notes[0] == "srun node-7 20041"
    assert ("requeue 41" in notes) is again


def test_before_its_time_is_over_the_run_is_asked_to_stop(cluster):
    start, folder = cluster
    script = slurm.script(job(run="runs/x y"), "1:00:00", 60)

    ranks = 'while [ ! -e "runs/x y/stop" ]; do sleep 0.1; done; sleep 0.5; exit 75'
    process = start(script, ranks)
    deadline = time.monotonic() + 10
    while not (folder / "notes").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)

    assert process.wait(timeout=20) == 75
    assert "requeue 41" in (folder / "notes").read_text().splitlines()


def test_over_ssh_it_is_deepspeeds_command_and_a_file_of_variables(tmp_path, monkeypatch):
    (tmp_path / "hosts").write_text("ada@node-1 slots=8\nnode-2 slots=8\nnode-3 slots=8\n")
    recipe = Path(DEBUG).resolve()
    monkeypatch.chdir(tmp_path)

    done = launch(
        *("ssh", "--recipe", recipe, "--hostfile", "hosts", "--nodes", 2, "--interface", "eth1"),
        *("--env", "HF_HOME=/data/hub", "train.steps=3"),
    )

    assert done.exit_code == 0, done.output
    assert shlex.split(done.output) == [
        *("deepspeed", "--hostfile", "hosts", "--num_nodes", "2", "--num_gpus", "8"),
        *("--master_addr", "node-1", "launch/train.py", "--recipe", str(recipe), "train.steps=3"),
        "checkpoint.resume=auto",
    ]
    lines = Path(".deepspeed_env").read_text().splitlines()
    assert {"NCCL_SOCKET_IFNAME=eth1", "GLOO_SOCKET_IFNAME=eth1", "HF_HOME=/data/hub"} <= {*lines}
    assert all(lines)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["slurm", "--recipe", "no.yaml", "--nodes", 2], "no.yaml"),
        (["slurm", "--recipe", DEBUG, "--nodes", 2, "--time", "soon"], "--time: 'soon' is no time"),
        (["slurm", "--recipe", DEBUG, "--nodes", 2, "--account", "a b"], "--account: 'a b'"),
        (["slurm", "--recipe", DEBUG, "--nodes", 2, "train.step=1"], "train.step"),
        (["ssh", "--recipe", DEBUG, "--hostfile", "no-hosts"], "no-hosts"),
    ],
)
def test_a_mistake_is_told_with_its_fix(words, told):
    done = launch(*words)

    assert isinstance(done.exception, UserError)
    assert told in str(done.exception)


def test_no_more_ranks_than_slots(tmp_path):
    (tmp_path / "hosts").write_text("node-1 slots=2\n")

    with pytest.raises(UserError, match="8 are more than the 2 slots"):
        ssh.command(job(nodes=1), Hostfile.read(tmp_path / "hosts"))


def test_names_fit_every_scheduler():
    done = launch("k8s", "--recipe", DEBUG, "--nodes", 1, "--image", "i", "--claim", "c",
                  "--name", "70B_Run: Ünïque!" * 9)  # fmt: skip

    service, manifest = yaml.safe_load_all(done.output)
    name = manifest["metadata"]["name"]
    assert name == service["metadata"]["name"]
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name)
