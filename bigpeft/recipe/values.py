"""Kinds of values that keys of a recipe may have, each with the message for what it is not."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

Targets = Literal["all-linear"] | str | tuple[str, ...]


def _no_truth(value: Any) -> Any:
    """YAML's true is 1 to pydantic; a recipe that says so means something else."""
    if isinstance(value, bool):
        raise ValueError("is true or false where a number belongs")
    return value


_Number = BeforeValidator(_no_truth)
PositiveInt = Annotated[int, _Number, Field(gt=0)]
NonNegativeInt = Annotated[int, _Number, Field(ge=0)]
PositiveFloat = Annotated[float, _Number, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, _Number, Field(ge=0.0)]
Share = Annotated[float, _Number, Field(ge=0.0, le=1.0)]


def one_of(names: list[str]) -> AfterValidator:
    """A validator that accepts only these names and lists them otherwise."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"is not one of {', '.join(names)}")
        return value

    return AfterValidator(check)


_UNITS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(span: str) -> int:
    """Of a time such as 30min. Raises ValueError for what is none."""
    found = re.fullmatch(r"([1-9]\d*)(s|min|h)", span)
    if found is None:
        raise ValueError("is neither a number nor a time such as 90s, 30min or 2h")
    return int(found[1]) * _UNITS[found[2]]


def _often(value: int | str) -> int | str:
    if isinstance(value, str):
        seconds_of(value)
    elif value <= 0:
        raise ValueError("is no number above 0, and no time such as 90s, 30min or 2h")
    return value


Often = Annotated[int | str, _Number, AfterValidator(_often)]
