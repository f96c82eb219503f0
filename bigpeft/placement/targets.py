"""Which linears get a method: names and patterns → seats."""

import re
from collections.abc import Mapping, Sequence

from bigpeft.errors import RecipeError

ALL = "all-linear"


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means this layer: the end of its dotted name, or a full regular expression.

    `q_proj` and `self_attn.q_proj` match `model.layers.0.self_attn.q_proj`; so does `.*[qk]_proj`.
    """
    if name == pattern or name.endswith(f".{pattern}"):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise RecipeError(
            "method.target_modules",
            f"{pattern!r} is neither the end of a layer name nor a regular expression ({error})",
            'write names such as [q_proj, v_proj], a pattern, or "all-linear"',
        ) from error


def select(key: str, patterns: str | Sequence[str], names: Sequence[str]) -> list[str]:
    """The layer names that any pattern means, in their own order.

    Raises RecipeError, naming `key`, for a pattern that matches nothing.
    """
    if patterns == ALL:
        return list(names)
    wanted = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in wanted:
        if not any(matches(pattern, name) for name in names):
            raise RecipeError(
                key,
                f"{pattern!r} matches no layer of this model",
                f"write one of {', '.join(ends(names))}, a regular expression, or {ALL}",
            )
    return [name for name in names if any(matches(pattern, name) for pattern in wanted)]


def ends(names: Sequence[str]) -> list[str]:
    """The distinct last parts of layer names, in order of appearance."""
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def options_for(
    name: str, options: Mapping[str, object], overrides: Mapping[str, Mapping[str, object]]
) -> dict[str, object]:
    """The options of one layer: those of the method, then of every override that matches it."""
    merged = dict(options)
    for pattern, other in overrides.items():
        if matches(pattern, name):
            merged |= other
    return merged
