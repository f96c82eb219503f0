"""Numbers as people read them."""

import math
from datetime import timedelta
from typing import Any


def number(value: Any, digits: int = 4) -> str:
    """1,234 for whole numbers, so many significant digits for others, a dash for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value) or "–"
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def share(part: Any, whole: Any) -> str:
    """In per cent; nothing where either is no number, or there is no whole."""
    if not isinstance(part, int | float) or not isinstance(whole, int | float) or not whole:
        return ""
    return f"{100 * part / whole:.1f} %"


def size(value: Any) -> str:
    """Bytes in the largest unit of 1024 that leaves a whole number before the point."""
    if not isinstance(value, int | float):
        return "–"
    unit, scale = largest_unit(value)
    return f"{value:.0f} B" if unit == "B" else f"{value / scale:.1f} {unit}"


def largest_unit(size: float) -> tuple[str, int]:
    """The unit in which people read so many bytes, and how many bytes it has."""
    scale = 1
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 * scale:
            return unit, scale
        scale *= 1024
    return "TiB", scale


def duration(seconds: float | None) -> str:
    """1:02:03 from a minute on, 4.2 s below."""
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))


def value(said: Any) -> str:
    """A value of a recipe as YAML would have it, in one line."""
    if said is None:
        return "null"
    if isinstance(said, bool):
        return str(said).lower()
    if isinstance(said, list | tuple):
        return f"[{', '.join(value(one) for one in said)}]"
    if isinstance(said, dict):
        return f"{{{', '.join(f'{key}: {value(one)}' for key, one in said.items())}}}"
    return f"{said:g}" if isinstance(said, float) else str(said)
