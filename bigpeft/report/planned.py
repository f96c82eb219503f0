"""Bytes of a rank by phase and kind: as a table, and as a picture with the memory they meet."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bigpeft.plan.forecast import PHASES
from bigpeft.report.chart import stacks
from bigpeft.report.curves import Chart
from bigpeft.report.figures import figures
from bigpeft.report.record import Record
from bigpeft.report.words import largest_unit, size

Phases = Mapping[str, Mapping[str, float]]
_STAYING = ("packed", "dense", "trained", "buffers", "optimizer", "gradients", "bucket")


def by_phase(told: Any) -> dict[str, dict[str, float]]:
    """Phase → kind → bytes, what stays first, without zeros; nothing for what is no forecast."""
    found = {}
    for phase in PHASES if isinstance(told, Mapping) else ():
        kinds = told.get(phase)
        counted = kinds.items() if isinstance(kinds, Mapping) else ()
        known = {str(kind): n for kind, n in counted if isinstance(n, int) and n > 0}
        if known:
            found[phase] = dict(sorted(known.items(), key=lambda pair: _order(pair[0])))
    return found


def _order(kind: str) -> int:
    return _STAYING.index(kind) if kind in _STAYING else len(_STAYING)


def table(phases: Phases) -> list[list[str]]:
    """A line per kind, a column per phase, and their sums."""
    kinds = dict.fromkeys(kind for kinds in phases.values() for kind in kinds)
    lines = [
        [kind, *(size(kinds[kind]) if kind in kinds else "" for kinds in phases.values())]
        for kind in kinds
    ]
    return [*lines, ["together", *(size(sum(kinds.values())) for kinds in phases.values())]]


def drawn(phases: Phases, limits: Mapping[str, tuple[float, float]]) -> Markup:
    """The picture, in the unit that suits it; `limits` as the chart has them, in bytes."""
    sums = {phase: sum(kinds.values()) for phase, kinds in phases.items()}
    unit, scale = largest_unit(max([*sums.values(), *(at for at, _ in limits.values())]))
    told = [f"{phase} {size(value)}" for phase, value in sums.items()]
    told += [f"{text} {size(at)}" for text, (at, _) in limits.items()]
    return stacks(
        "bytes",
        f"Bytes of a rank by phase: {', '.join(told)}",
        {p: {kind: n / scale for kind, n in kinds.items()} for p, kinds in phases.items()},
        {text: (at / scale, kept / scale) for text, (at, kept) in limits.items()},
        unit,
    )


def planned(record: Record) -> Chart | None:
    """What a run was to need beside what it needed; None where its folder holds no forecast.

    Of a CPU run the memory of the whole process is known, which no bar can stand beside.
    """
    phases, measured = by_phase(record.forecast), figures(record).memory
    if not phases:
        return None
    peak = max(sum(kinds.values()) for kinds in phases.values())
    heading = f"Planned for each rank: {size(peak)} of tensors at the peak"
    on_cpu = record.environment.get("accelerator") == "cpu"
    if measured:
        counted = "of the process, libraries and data included" if on_cpu else "allocated"
        heading += f"; measured: {size(measured)} {counted}"
    limits = {"measured": (measured, 0.0)} if measured and not on_cpu else {}
    return Chart(heading, drawn(phases, limits))
