"""A plan as a page: its bytes by phase, the machine that they have to fit, time and links."""

from collections.abc import Sequence
from pathlib import Path

from bigpeft.plan.forecast import RESERVE, Forecast, Hardware
from bigpeft.recipe import Recipe
from bigpeft.report.page import render, write_page
from bigpeft.report.planned import by_phase, drawn, table


def write_forecast(
    found: Forecast,
    hardware: Hardware,
    recipe: Recipe,
    said: Sequence[str],
    verdict: str,
    out: Path,
) -> Path:
    """Write it as one page that needs nothing but itself. Raises FileError."""
    memory = hardware.card.memory
    phases = by_phase(found.per_rank)
    page = render(
        "plan.html",
        found=found,
        hardware=hardware,
        recipe=recipe,
        said=said,
        verdict=verdict,
        fits=found.spare(memory) >= 0,
        speed=found.speed(hardware),
        phases=list(phases),
        rows=table(phases),
        drawing=drawn(phases, {"memory of a GPU": (memory, RESERVE)}),
    )
    return write_page(page, out)
