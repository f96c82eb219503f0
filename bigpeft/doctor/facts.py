"""What one node reports about itself."""

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import bigpeft
from bigpeft.train.program import MISSING, digest_of_code, digest_of_file

PACKAGES = ("torch", "deepspeed", "transformers", "bitsandbytes")
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@dataclass(frozen=True)
class Disk:
    """A folder that a run writes to; `at` is the part of its path that exists already."""

    path: str
    at: str
    free: int
    """Bytes."""


@dataclass(frozen=True)
class Facts:
    """One node. Memory and disks in bytes; versions and digests by name."""

    machine: str
    versions: dict[str, str]
    code: str
    gpus: tuple[str, ...]
    usable_gpus: int
    driver: str
    memory: int
    disks: dict[str, Disk]
    inputs: dict[str, str]
    addresses: tuple[str, ...]
    name_is_loopback: bool
    interfaces: dict[str, str]
    """Variables that choose a network interface which this node does not have."""
    gloo_has_interface: bool
    port_is_free: bool


def gather(folders: Mapping[str, str], inputs: list[str], port: int) -> Facts:
    """Examine this node: folders by recipe key, files of which every node needs the same."""
    import torch

    gpus, driver = _nvidia()
    usable = torch.cuda.device_count()
    if not gpus:
        gpus = tuple(torch.cuda.get_device_name(index) for index in range(usable))
    chosen = {name: os.environ[name] for name in _INTERFACES if os.environ.get(name)}
    return Facts(
        machine=_machine(),
        versions=_versions(),
        code=digest_of_code(),
        gpus=gpus,
        usable_gpus=usable,
        driver=driver,
        memory=psutil.virtual_memory().available,
        disks={key: _disk(Path(folder)) for key, folder in folders.items()},
        inputs={path: digest_of_file(Path(path)) for path in inputs},
        addresses=_addresses(),
        name_is_loopback=_name_is_loopback(),
        interfaces={name: value for name, value in chosen.items() if not _exists(value)},
        gloo_has_interface=_INTERFACES[0] in chosen,
        port_is_free=_is_free(port),
    )


def nearest(folder: Path) -> Path:
    """The folder, or the first one above it that exists."""
    return next(place for place in [folder, *folder.parents] if place.is_dir())


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "bigpeft": bigpeft.__version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = MISSING
    return found


def _machine() -> str:
    """The same for two names of one node."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
    return socket.gethostname()


def _nvidia() -> tuple[tuple[str, ...], str]:
    question = [
        "nvidia-smi",
        "--query-gpu=driver_version,name,memory.total",
        "--format=csv,noheader",
    ]
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(question, capture_output=True, text=True, timeout=30, check=True)
        lines = [line.split(", ", 1) for line in answer.stdout.splitlines() if ", " in line]
        if lines:
            return tuple(name for _, name in lines), lines[0][0]
    return (), "none"


def _disk(folder: Path) -> Disk:
    at = nearest(folder)
    return Disk(str(folder), str(at), shutil.disk_usage(at).free)


def _addresses() -> tuple[str, ...]:
    """As `hostname -I` lists them: DeepSpeed lets all ranks meet at the first node's first one."""
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(["hostname", "-I"], capture_output=True, text=True, timeout=10)
        return tuple(answer.stdout.split())
    return ()


def _name_is_loopback() -> bool:
    """Gloo listens at the address of the host's name."""
    try:
        return socket.gethostbyname(socket.gethostname()).startswith("127.")
    except OSError:
        return True


def _exists(names: str) -> bool:
    """NCCL takes a list, prefixes, and ^ for all but these."""
    if names.startswith("^"):
        return True
    known = psutil.net_if_addrs()
    wanted = names.removeprefix("=").split(",")
    return any(name.startswith(prefix) for prefix in wanted for name in known)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def route_to(address: str, port: int) -> tuple[str, str]:
    """Interface and address by which this node reaches another one; empty where it cannot."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, port))
            mine = str(probe.getsockname()[0])
    except OSError:
        return "", ""
    for name, known in psutil.net_if_addrs().items():
        if any(one.address == mine for one in known):
            return name, mine
    return "", mine
