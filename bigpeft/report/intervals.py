"""How sure an accuracy is that was counted on so many rows."""

import math

_Z = 1.959963984540054  # 95 %


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The 95 % score interval (Wilson 1927) of a share of so many rows. Raises ValueError for 0."""
    if rows <= 0:
        raise ValueError("an interval needs a row")
    spread = _Z**2 / rows
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / rows + spread / (4 * rows))
    return max(0.0, middle - half), min(1.0, middle + half)
