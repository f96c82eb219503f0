"""bigpeft launch: a run on many machines, over ssh, SLURM or Kubernetes."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from bigpeft.errors import FileError, RecipeError
from bigpeft.hostfile import Hostfile
from bigpeft.launch import k8s, slurm, ssh
from bigpeft.launch.job import read_job

app = typer.Typer(help=__doc__, no_args_is_help=True)

_Recipe = Annotated[Path, typer.Option(help="a recipe file")]
_Overrides = Annotated[list[str] | None, typer.Argument(help="section.key=value")]
_Nodes = Annotated[int, typer.Option(min=1, help="number of machines")]
_Gpus = Annotated[int, typer.Option(min=1, help="GPUs, and ranks, of each")]
_Interface = Annotated[
    str | None, typer.Option(help="network interface between nodes, such as ib0 or eth0")
]
_Out = Annotated[Path | None, typer.Option(help="write it there instead of printing it")]
_Name = Annotated[str | None, typer.Option(help="of the job; default: that of the recipe")]


@app.command("ssh")
def over_ssh(
    recipe: _Recipe,
    hostfile: Annotated[Path, typer.Option(help="one HOST slots=N a line")],
    overrides: _Overrides = None,
    nodes: Annotated[int | None, typer.Option(help="the first so many; default: all")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="default: the slots")] = None,
    interface: _Interface = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for every node")] = None,
    master: Annotated[str | None, typer.Option(help="address of the first node")] = None,
    ssh_port: Annotated[int | None, typer.Option(help="where sshd listens")] = None,
    run: Annotated[bool, typer.Option("--run", help="start it instead of printing it")] = False,
) -> None:
    """Write .deepspeed_env and print the command, or run it."""
    hosts = Hostfile.read(hostfile, nodes)
    job = read_job(recipe, overrides or [], len(hosts), gpus_per_node or hosts.slots)
    words = ssh.command(job, hosts, master, ssh_port)
    _write(ssh.ENVIRONMENT, ssh.environment(interface, _variables(env or [])))
    if run:
        os.execvp(words[0], words)
    typer.echo(shlex.join(words))


@app.command("slurm")
def by_slurm(
    recipe: _Recipe,
    nodes: _Nodes,
    overrides: _Overrides = None,
    gpus_per_node: _Gpus = 8,
    time: Annotated[str, typer.Option(help="limit of one start, such as 12:00:00")] = "24:00:00",
    warn: Annotated[
        int, typer.Option(min=30, help="seconds before the limit at which the run saves and stops")
    ] = 600,
    partition: Annotated[str | None, typer.Option(help="of the cluster")] = None,
    account: Annotated[str | None, typer.Option(help="that pays")] = None,
    interface: _Interface = None,
    name: _Name = None,
    out: _Out = None,
) -> None:
    """A batch script that stops in time and queues itself again."""
    job = read_job(recipe, overrides or [], nodes, gpus_per_node, name)
    _tell(slurm.script(job, time, warn, partition, account, interface), out)


@app.command("k8s")
def on_kubernetes(
    recipe: _Recipe,
    nodes: _Nodes,
    image: Annotated[str, typer.Option(help="a container image with bigpeft's packages")],
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim that all pods write")],
    overrides: _Overrides = None,
    gpus_per_node: _Gpus = 8,
    mount: Annotated[str, typer.Option(help="where the claim lies: the checkout")] = "/work",
    grace: Annotated[int, typer.Option(min=30, help="seconds for a last checkpoint")] = 600,
    namespace: Annotated[str, typer.Option(help="of the cluster")] = "default",
    name: _Name = None,
    out: _Out = None,
) -> None:
    """A Service and an indexed Job."""
    job = read_job(recipe, overrides or [], nodes, gpus_per_node, name)
    _tell(k8s.manifests(job, image, claim, mount, grace, namespace), out)


def _variables(said: list[str]) -> dict[str, str]:
    found = {}
    for text in said:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or "\n" in value:
            raise RecipeError(f"--env {text}", "is no variable", "write --env NAME=VALUE")
        found[name] = value
    return found


def _tell(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    _write(out, text)
    typer.echo(f"wrote {out}")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(
            str(path), f"cannot be written ({error.strerror})", "choose another place"
        ) from error
