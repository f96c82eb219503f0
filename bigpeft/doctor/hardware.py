"""What the nodes run on: GPUs, memory, disks, clocks, network."""

from collections.abc import Iterator

from bigpeft.doctor.facts import Facts
from bigpeft.doctor.problem import Answered, Problem, gib

SKEW = 1.0  # seconds
FREE_DISK = 1 << 30  # bytes
MEMORY_OF_A_RANK = 1 << 29  # bytes: torch, DeepSpeed and transformers before any weight
_NAMED = 3  # hosts in one sentence


def gpus(answered: Answered) -> Iterator[Problem]:
    """As many as slots, and usable."""
    on_gpus = any(facts.gpus for _, facts in answered)
    for node, facts in answered:
        if facts.gpus and facts.usable_gpus == 0:
            yield Problem(
                node.host,
                f"has {len(facts.gpus)} GPUs that torch {facts.versions['torch']} cannot use "
                f"(driver {facts.driver})",
                "update the driver, or install the torch that is built for it",
            )
        elif on_gpus and facts.usable_gpus < node.slots:
            yield Problem(
                node.host,
                f"has {node.slots} slots and {facts.usable_gpus} GPUs",
                f"write slots={facts.usable_gpus} for every node, or leave this one out"
                if facts.usable_gpus
                else "take its line out of the hostfile",
            )


def memory(answered: Answered) -> Iterator[Problem]:
    """Enough to start at all."""
    for node, facts in answered:
        needed = MEMORY_OF_A_RANK * max(1, node.slots)
        if facts.memory < needed:
            yield Problem(
                node.host,
                f"has {gib(facts.memory)} of free memory for {node.slots} ranks, which take "
                f"{gib(needed)} before any weight",
                "end other programs there, or give it fewer slots",
            )


def disks(answered: Answered) -> Iterator[Problem]:
    """Room, and the right to write and lock."""
    for node, facts in answered:
        for key, disk in facts.disks.items():
            if disk.free < FREE_DISK:
                yield Problem(
                    f"{node.host}, {key} {disk.path}",
                    f"has {gib(disk.free)} of free disk",
                    f"free at least {gib(FREE_DISK)} there, or choose another {key}",
                )
        if node.unwritable:
            yield Problem(
                f"{node.host}, run.folder {facts.disks['run.folder'].path}",
                f"cannot be written and locked in {facts.disks['run.folder'].at} "
                f"({node.unwritable})",
                "mend its permissions or mount options, or choose another run.folder",
            )


def shared(answered: Answered) -> Iterator[Problem]:
    """What each node and the first saw of the other in the run folder, then of the rest."""
    apart = [
        node.host
        for node, _ in answered[1:]
        if answered[0][0].host in node.unseen or node.host in answered[0][0].unseen
    ]
    for node, facts in answered:
        where = f"run.folder {facts.disks['run.folder'].path}"
        lost = [host for host in node.unseen if host not in apart]
        if node.host in apart:
            lost = [answered[0][0].host]
        if lost:
            others = f"{len(lost)} other nodes" if len(lost) > _NAMED else ", ".join(lost)
            yield Problem(
                node.host,
                f"does not share {where} with {others}",
                "mount the same disk at the same path on every node, or choose a run.folder on one",
            )
        elif node.sees_old:
            yield Problem(
                node.host,
                f"sees an old file in {where} after another is renamed over it",
                "mount it with a shorter attribute cache (NFS: actimeo=3), or use another disk",
            )


def clocks(answered: Answered) -> Iterator[Problem]:
    """Against the first node, so that the doctor's own clock does not count."""
    known = [(node.host, node.clock) for node, _ in answered if node.clock is not None]
    for host, clock in known[1:]:
        first, measure = known[0]
        skew = clock.ahead - measure.ahead
        if abs(skew) - clock.within - measure.within > SKEW:
            side = "ahead of" if skew > 0 else "behind"
            yield Problem(
                host,
                f"has a clock {abs(skew):.1f} s {side} that of {first}",
                "keep the clocks of all nodes with chrony or ntpd",
            )


def network(answered: Answered) -> Iterator[Problem]:
    """Interfaces that were chosen, and names that others can reach."""
    for node, facts in answered:
        for name, value in facts.interfaces.items():
            yield Problem(
                node.host,
                f"has no network interface {value}, which {name} names",
                f"name one that every node has in .deepspeed_env: {name}=INTERFACE",
            )
    if len(answered) < 2:
        return
    for node, facts in answered:
        if is_out_of_reach(facts):
            interface = node.route[0] if node.route and node.route[0] else "INTERFACE"
            yield Problem(
                node.host,
                "lets its own name mean 127.0.0.1, where other nodes' gloo cannot reach it",
                f"write GLOO_SOCKET_IFNAME={interface} into .deepspeed_env, or mend /etc/hosts",
            )


def is_out_of_reach(facts: Facts) -> bool:
    """Gloo listens at the address of the host's name; NCCL finds an interface by itself."""
    return facts.usable_gpus == 0 and facts.name_is_loopback and not facts.gloo_has_interface


def port_in_use(first: Answered, port: int) -> Iterator[Problem]:
    """Where all ranks would meet, on the first node."""
    for node, facts in first:
        if not facts.port_is_free:
            yield Problem(
                node.host,
                f"uses port {port} already, where all ranks would meet",
                f"end the other run, or choose another: --master-port {port + 1}, for deepspeed "
                f"--master_port {port + 1}",
            )
