"""The forecast of memory at the start of a run, and beside what was measured at its end."""

from collections.abc import Callable

from bigpeft.plan import Plan
from bigpeft.plan.forecast import GIB, Forecast, forecast_of

_MOST_KINDS = 4


def expect(plan: Plan, say: Callable[[str], None]) -> Forecast | None:
    """Forecast a run whose weights are not loaded yet, and say it; never stops the run.

    None for a model whose forward pass cannot be made without weights.
    """
    try:
        found = forecast_of(plan)
    except Exception as error:
        say(f"no forecast of memory for this model: {error}")
        return None
    for phase, kinds in found.per_rank.items():
        told = sorted(((n, kind) for kind, n in kinds.items() if n), reverse=True)
        say(
            f"planned for {phase:<8} {_readable(sum(kinds.values()))} of tensors on each rank: "
            + ", ".join(f"{kind} {_readable(n)}" for n, kind in told[:_MOST_KINDS])
            + (", …" if told[_MOST_KINDS:] else "")
        )
    return found


def beside(expected: Forecast | None, measured: int, on_accelerator: bool) -> str:
    """The planned peak beside the measured one, which on a CPU has the libraries in it."""
    counted = "allocated" if on_accelerator else "resident, libraries and data included"
    planned = f"planned {_readable(expected.peak)} of tensors, " if expected else ""
    return f"peak memory: {planned}measured {_readable(measured)} {counted}"


def _readable(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"
