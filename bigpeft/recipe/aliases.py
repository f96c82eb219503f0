"""Keys that the recipe does not have: where they belong, and what to write instead."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import get_args

from pydantic import BaseModel

from bigpeft.recipe.data import Source
from bigpeft.recipe.evaluation import EvalTask
from bigpeft.recipe.foreign import FOREIGN
from bigpeft.recipe.sections import METHOD_SECTIONS, MethodSection, Recipe

_PARTS: dict[tuple[str, str], tuple[str, type[BaseModel]]] = {
    ("eval", "tasks"): ("eval.tasks.NAME", EvalTask),
    ("data", "sources"): ("data.sources", Source),
}
"""Where a section holds sections of its own."""


def either(words: Iterable[str], link: str = "or") -> str:
    """`a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} {link} {last}" if first else last


def dotted(path: Sequence[str]) -> str:
    """`a.b[0]` for the path a, b, 0."""
    return re.sub(r"\.(\d+)(?=[.\[]|$)", r"[\1]", ".".join(path))


def sections(method: object = None) -> dict[str, type[BaseModel]]:
    """Name → class of every section of a recipe with the method of this name."""
    known: dict[str, type[BaseModel]] = {}
    for name, field in Recipe.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind]
        known[name] = next(k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
    return known | {"method": METHOD_SECTIONS.get(str(method), MethodSection)}


def owners(key: str) -> list[str]:
    """Sections that have this key, whatever the method."""
    found = [name for name, section in sections().items() if key in section.model_fields]
    if any(key in section.model_fields for section in METHOD_SECTIONS.values()):
        found = [name for name in sections() if name in {*found, "method"}]
    return found


def unknown_key(path: tuple[str, ...], method: object) -> tuple[str, str]:
    """Why the key at `path` is not accepted in a recipe with this method, and the fix."""
    *above, key = path
    here = above[0] if above else ""
    of_methods = [name for name, m in METHOD_SECTIONS.items() if key in m.model_fields]
    if here == "method" and of_methods:
        fix = f"leave it out, or choose a method that has it: {', '.join(of_methods)}"
        return f"is not an option of {method}", fix
    if len(above) == 1 and (inside := _inside(here, key)):
        return f"belongs to {inside}", f"write {inside}.{key}"
    if foreign := FOREIGN.get(f"{here}.{key}"):
        return foreign.told()
    if homes := owners(key):
        return f"belongs to {either(homes)}", f"write {either([f'{h}.{key}' for h in homes])}"
    if foreign := FOREIGN.get(key):
        return foreign.told()
    known = sections(method)
    names = _names(above, known)
    why = f"is not a key of {'.'.join(above[:-1] or above)}" if here else "is not a section"
    if near := get_close_matches(key, names, n=1):
        return why, f"did you mean {dotted([*above, *near])}?"
    for name, section in known.items():
        if near := get_close_matches(key, section.model_fields, n=1, cutoff=0.8):
            return why, f"did you mean {name}.{near[0]}?"
    return why, f"leave it out, or write one of {', '.join(names)}"


def _inside(here: str, key: str) -> str | None:
    """The part of the section that has a key which the section itself has not."""
    for (section, _), (name, part) in _PARTS.items():
        if section == here and key in part.model_fields:
            return name
    return None


def _names(above: Sequence[str], known: dict[str, type[BaseModel]]) -> list[str]:
    """Keys that there are at this place, sections at the top."""
    if len(above) == 3 and (above[0], above[1]) in _PARTS:
        return list(_PARTS[above[0], above[1]][1].model_fields)
    return list(known[above[0]].model_fields) if above and above[0] in known else list(known)
