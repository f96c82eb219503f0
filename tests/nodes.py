"""Two nodes on one machine: network namespaces joined by a cable, an sshd in each.

What crosses the cable is counted by the kernel. They share the disk, the package and the clock, and
have nothing else in common: no rank of one reaches the other but through the cable, each has a name
of its own, and what is mounted on one is not seen by the other.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ADDRESSES, NAMES = ("10.77.0.1", "10.77.0.2"), ("node-a", "node-b")
INTERFACE, SSH_PORT = "eth0", 2222
_TOOLS = {"ip": "iproute2", "pdsh": "pdsh", "/usr/sbin/sshd": "openssh-server"}
_SSHD = """
Port {port}
ListenAddress {address}
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
PidFile {folder}/sshd-{address}.pid
"""
_CLIENT = """
Host *
  Port {port}
  IdentityFile {folder}/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@dataclass(frozen=True)
class Nodes:
    """Commands run on the first node, with an ssh that knows the way to both."""

    folder: Path
    spaces: tuple[str, str]

    def hostfile(self, slots: int) -> Path:
        """Both nodes, with so many slots each."""
        path = self.folder / f"hosts-{slots}"
        path.write_text("".join(f"{address} slots={slots}\n" for address in ADDRESSES))
        return path

    def start(self, *command: object) -> "subprocess.Popen[str]":
        """On the first node, in a session of its own."""
        return subprocess.Popen(
            _words_on(self.spaces, 0, *command),
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def launch(self, slots: int, *overrides: object) -> "subprocess.Popen[str]":
        """recipes/debug.yaml on both nodes, by DeepSpeed's launcher."""
        words = [Path(sys.executable).parent / "deepspeed", "--hostfile", self.hostfile(slots)]
        words += ["--master_addr", ADDRESSES[0], "--ssh_port", SSH_PORT, "launch/train.py"]
        return self.start(*words, "--recipe", "recipes/debug.yaml", *overrides)

    @contextmanager
    def mounted(self, node: int, *words: object) -> Iterator[None]:
        """`mount WORDS` on one node (0 or 1), seen by what its sshd starts; the last is where."""
        inside = ["nsenter", "--target", _sshd(self.folder, node), "--mount"]
        subprocess.run([*inside, "mount", *map(str, words)], check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "umount", "--lazy", str(words[-1])], check=True)

    def sent(self) -> int:
        """Bytes that the first node has put on the cable so far."""
        counter = f"/sys/class/net/{INTERFACE}/statistics/tx_bytes"
        return int(subprocess.check_output(_words_on(self.spaces, 0, "cat", counter)))

    def kill(self, node: int) -> None:
        """End every process of a node (0 or 1) at once, its sshd too."""
        for pid in subprocess.check_output(["ip", "netns", "pids", self.spaces[node]]).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def _environment(self) -> Mapping[str, str]:
        carried = {
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": INTERFACE,
        }
        variables = self.folder / "variables"
        variables.write_text("".join(f"{name}={value}\n" for name, value in carried.items()))
        path = f"{self.folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | carried | {"DS_ENV_FILE": str(variables), "PATH": path}


def skip_without_nodes() -> None:
    """Say what is missing where a machine cannot be two."""
    missing = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"two nodes on one machine need apt install {' '.join(missing)}")
    tried = subprocess.run(["ip", "netns", "add", _space("try")], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"two nodes on one machine need root: {tried.stderr.strip()}")
    subprocess.run(["ip", "netns", "del", _space("try")], check=True)


@contextmanager
def two_nodes(folder: Path) -> Iterator[Nodes]:
    """Both nodes, which are gone afterwards with all that runs on them."""
    nodes = Nodes(folder, (_space("a"), _space("b")))
    try:
        _keys(folder)
        _wire(nodes.spaces)
        for number, address in enumerate(ADDRESSES):
            config = folder / f"sshd-{address}"
            config.write_text(_SSHD.format(port=SSH_PORT, address=address, folder=folder))
            words = _words_on(nodes.spaces, number, "/usr/sbin/sshd", "-f", config)
            subprocess.run(words, check=True, capture_output=True)
            _sshd(folder, number)
        yield nodes
    finally:
        for number, space in enumerate(nodes.spaces):
            with suppress(subprocess.CalledProcessError):
                nodes.kill(number)
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def _sshd(folder: Path, node: int) -> str:
    """Its process id, once it listens."""
    file, end = folder / f"sshd-{ADDRESSES[node]}.pid", time.monotonic() + 60
    while not (file.exists() and file.read_text().strip()):
        if time.monotonic() > end:
            raise TimeoutError(f"no sshd at {ADDRESSES[node]}")
        time.sleep(0.01)
    return file.read_text().strip()


def _words_on(spaces: tuple[str, str], node: int, *command: object) -> list[str]:
    """A command as that node runs it, under the node's name."""
    named = ["unshare", "--uts", "sh", "-c", f'hostname {NAMES[node]}; exec "$@"', "sh"]
    return ["ip", "netns", "exec", spaces[node], *named, *map(str, command)]


def _space(name: str) -> str:
    """Another for each process of tests."""
    return f"bigpeft-{os.getpid()}-{name}"


def _keys(folder: Path) -> None:
    Path("/run/sshd").mkdir(exist_ok=True)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
    subprocess.run(words, check=True)
    (folder / "ssh_config").write_text(_CLIENT.format(port=SSH_PORT, folder=folder))
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    ssh.chmod(0o755)


def _wire(spaces: tuple[str, str]) -> None:
    ends = [f"bp{os.getpid()}{name}" for name in "ab"]
    for space in spaces:
        _ip("netns", "add", space)
    _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for space, end, address in zip(spaces, ends, ADDRESSES, strict=True):
        _ip("link", "set", end, "netns", space, "name", INTERFACE)
        _ip("-n", space, "addr", "add", f"{address}/24", "dev", INTERFACE)
        for link in ("lo", INTERFACE):
            _ip("-n", space, "link", "set", link, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
