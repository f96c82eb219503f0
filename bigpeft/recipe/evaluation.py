"""The eval section: what a run is judged by while it trains."""

from pydantic import Field

from bigpeft.recipe.section import Section
from bigpeft.recipe.values import PositiveInt


class Evaluation(Section):
    """Held-out rows, read like the training rows."""

    path: str | tuple[str, ...] = Field(description="file, folder, glob or hub name; or several")
    limit: PositiveInt | None = Field(None, description="use only the first rows")
    micro_size: PositiveInt = Field(8, description="rows per rank per forward pass")
    choices: tuple[str, ...] = Field(
        (), description="possible answers: also measure how often the right one is likeliest"
    )
