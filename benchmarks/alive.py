"""Bytes of a rank as benchmarks count them: at malloc by phase, at their owners by kind."""

import ctypes
import gc
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

from bigpeft.backbone.packed import PackedWeight

PASSING = ("gathered", "decoded")


@contextmanager
def counted_at_malloc() -> Iterator[None]:
    """Processes that are started in the with statement count what they allocate (alive.c)."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "alive.so"
        source = Path(__file__).with_name("alive.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        os.environ["LD_PRELOAD"] = str(library)
        try:
            yield
        finally:
            del os.environ["LD_PRELOAD"]


class Alive:
    """Bytes of this process beyond those at the start, by phase.

    `at_peak` has those of the kinds that come and go, at the moment of the phase's peak.
    """

    def __init__(self) -> None:
        self._counted = ctypes.CDLL(None)
        for ask in ("alive_bytes", "peak_bytes", "bytes_at_peak"):
            getattr(self._counted, ask).restype = ctypes.c_long
        gc.collect()
        self._start = self._counted.alive_bytes()
        self._counted.forget_peak()
        self._before = self._passing()
        self.peaks: dict[str, int] = {}
        self.at_peak: dict[str, dict[str, int]] = {}

    def now(self) -> int:
        """Bytes alive."""
        return self._counted.alive_bytes() - self._start

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the most bytes that were alive in the with statement."""
        self._counted.forget_peak()
        yield
        found = self._counted.peak_bytes() - self._start
        if found > self.peaks.get(name, 0):
            self.peaks[name] = found
            before, now = self._before, self._passing()
            self.at_peak[name] = {kind: now[kind] - before[kind] for kind in PASSING}

    def _passing(self) -> dict[str, int]:
        return {k: self._counted.bytes_at_peak(n) for n, k in enumerate(PASSING, start=1)}

    def forget(self, *phases: str) -> None:
        """What was recorded of these phases."""
        for name in phases:
            self.peaks.pop(name, None)
            self.at_peak.pop(name, None)


def mark_kinds() -> None:
    """From here on this process marks what it allocates for gathers and for decoded weights.

    Called before the processes join. What gloo copies for itself is left out: NCCL gathers in
    place.
    """
    counted = ctypes.CDLL(None)

    def marked(number: int, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def with_kind(*args: Any, **kwargs: Any) -> Any:
            before = counted.allocate(number)
            try:
                return call(*args, **kwargs)
            finally:
                counted.allocate(before)

        return with_kind

    for number, owner, verb in (
        (1, PartitionedParameterCoordinator, "fetch_sub_module"),
        (2, PackedWeight, "dense"),
        (3, torch.distributed, "all_gather_into_tensor"),
    ):
        setattr(owner, verb, marked(number, getattr(owner, verb)))


@contextmanager
def watched_verbs(engine: Any, alive: Alive) -> Iterator[None]:
    """Peaks of the engine's own verbs; forward lasts from the model to the loss."""
    verbs = {"forward": engine.forward, "backward": engine.backward, "step": engine.step}
    forward: list[Any] = []

    def marked(name: str, verb: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "forward":
                forward.append(alive.phase(name))
                forward[-1].__enter__()
                return verb(*args, **kwargs)
            if name == "backward":
                forward.pop().__exit__(None, None, None)
            with alive.phase(name):
                return verb(*args, **kwargs)

        return call

    for name, verb in verbs.items():
        setattr(engine, name, marked(name, verb))
    try:
        yield
    finally:
        for name in verbs:
            delattr(engine, name)


def held_by_kind(engine: Any, plan: Any) -> dict[str, int]:
    """Bytes by kind between two steps."""
    packed = {id(m.packed) for m in plan.model.modules() if isinstance(m, PackedWeight)}
    counts = dict.fromkeys(("packed", "dense", "trained"), 0)
    for parameter in plan.model.parameters():
        kind = "packed" if id(parameter) in packed else "dense"
        kind = "trained" if parameter.requires_grad else kind
        part = getattr(parameter, "ds_tensor", None)
        whole = getattr(parameter, "ds_status", None)
        second = getattr(parameter, "ds_secondary_tensor", None)
        counts[kind] += _size(copy for copy in (part, second) if copy is not None)
        is_whole = part is None or str(whole).endswith(".AVAILABLE")
        if is_whole and (part is None or part.data_ptr() != parameter.data_ptr()):
            counts[kind] += parameter.numel() * parameter.element_size()
    counts["buffers"] = sum(
        b.numel() * b.element_size() for m in plan.seated.values() for b in m.buffers()
    )
    return counts | _optimizer(engine)


def passing_kinds(
    planned: dict[str, dict[str, int]], alive: Alive, held: int, kinds: dict[str, int]
) -> dict[str, dict[str, int]]:
    """What comes and goes, at the largest moment of the passes: measured, and planned for it.

    `held` bytes stay, of these `kinds`. What is neither they nor marked is saved by autograd or
    belongs to the loss, or to gradients and their bucket, which below ZeRO-3 do not stay.
    """
    phase = max(("forward", "backward"), key=lambda phase: alive.peaks[phase])
    marked, plan = alive.at_peak[phase], planned[phase]
    rest = alive.peaks[phase] - held - sum(marked.values())
    pairs = {kind: (marked[kind], plan.get(kind, 0)) for kind in PASSING}
    passing = sum(plan[kind] for kind in ("gradients", "bucket") if not kinds[kind])
    pairs["saved"] = rest, plan["activations"] + plan.get("logits", 0) + passing
    return {kind: {"measured": m, "planned": p} for kind, (m, p) in pairs.items() if p}


def _optimizer(engine: Any) -> dict[str, int]:
    zero = engine.optimizer
    inner = getattr(zero, "optimizer", zero)
    tensors = [t for state in inner.state.values() for t in state.values() if torch.is_tensor(t)]
    masters = getattr(zero, "fp32_partitioned_groups_flat", None)
    if masters is None:
        masters = getattr(zero, "single_partition_of_fp32_groups", [])
    buckets = [b.buffer for b in getattr(zero, "ipg_buckets", {}).values()]
    flat = [t for b in buckets for t in (b if isinstance(b, list) else [b])]
    gradients = getattr(zero, "grad_partitions_flat_buffer", None)
    return {
        "optimizer": _size([*tensors, *masters]),
        "bucket": _size(t for t in flat if t is not None),
        "gradients": _size([gradients] if gradients is not None else []),
    }


def _size(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
