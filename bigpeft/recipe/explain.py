"""From a schema's complaints to one message: file, line and key; what it holds; why; the fix."""

import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bigpeft.errors import RecipeError
from bigpeft.recipe.aliases import dotted, either, sections, unknown_key
from bigpeft.recipe.foreign import FOREIGN_METHODS
from bigpeft.recipe.section import Section
from bigpeft.recipe.sections import METHOD_SECTIONS, Recipe

KeyPath = tuple[str, ...]

_MOST = 5
_MISSING = "is missing"
_KINDS = {
    "bool": "true or false",
    "dict": "a mapping of keys to values",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "string": "text",
    "tuple": "a list",
}
_BOUNDS = {
    "ge": "of at least {:g}",
    "gt": "above {:g}",
    "le": "of at most {:g}",
    "lt": "below {:g}",
}


def shown(value: object, most: int = 60) -> str:
    """A value as the user may have written it, cut to `most` characters."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= most else f"{text[: most - 1]}…"


@dataclass
class Sources:
    """Where each key of a recipe was written: a line of `file`, or the command line."""

    file: str
    lines: dict[KeyPath, int]
    overrides: dict[KeyPath, str] = field(default_factory=dict)

    def override(self, path: KeyPath, text: str) -> None:
        """Note that the command line replaced everything at and below `path`."""
        for places in (self.lines, self.overrides):
            for old in [old for old in places if old[: len(path)] == path]:
                del places[old]
        self.overrides[path] = text

    def line(self, path: KeyPath) -> int | None:
        """Line of the key, or of the nearest key above it; None where no line holds it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.overrides:
                return None
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def where(self, path: KeyPath) -> str:
        """The place and the key, to begin a message with."""
        if line := self.line(path):
            return f"{self.file}:{line} {dotted(path)}"
        for near in (path, path[:-1]):
            for key, text in self.overrides.items():
                if near and (key[: len(near)] == near or near[: len(key)] == key):
                    return f"command line: {text}" + ("" if key == path else f" ({dotted(path)})")
        return f"{self.file} {dotted(path)}"


def explain(error: ValidationError, raw: dict[Any, Any], sources: Sources) -> RecipeError:
    """One RecipeError for everything that the schema found wrong with `raw`.

    Mistakes come in the order of the file, missing keys last; of many, only the first are told.
    """
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_path(details, raw), []).append(details)
    # A value that may be text or a list fails as both: a bad item says more than "is not text".
    found = {p: d for p, d in found.items() if not any(q[: len(p)] == p for q in found if q != p)}

    reasons = {path: _reason(path, details, raw) for path, details in found.items()}
    missing = {path for path, (why, _) in reasons.items() if why == _MISSING}
    advice = " ".join(fix for path, (_, fix) in reasons.items() if path not in missing)
    for path in missing:
        if re.search(rf"\b{re.escape(dotted(path))}\b", advice):  # misspelt rather than missing
            del reasons[path]
    ordered = sorted(reasons, key=lambda path: (path in missing, sources.line(path) or 0))
    told = [RecipeError(sources.where(path), *reasons[path]) for path in ordered[:_MOST]]
    more = [f"and {len(ordered) - _MOST} more"] if len(ordered) > _MOST else []
    first, *others = told
    # The other mistakes ride behind the first one's fix, each a paragraph of the same form.
    return RecipeError(first.what, first.why, "\n\n".join([first.fix, *map(str, others), *more]))


def _path(details: ErrorDetails, raw: dict[Any, Any]) -> KeyPath:
    """Keys as the user wrote them, without the tags that pydantic adds for members of unions."""
    loc, kind = details["loc"], details["type"]
    if kind.startswith("union_tag"):
        return ("method", "name")
    if loc[0] == "method" and loc[1:2] and loc[1] in METHOD_SECTIONS:
        loc = ("method", *loc[2:])
    path: list[str] = []
    here: Any = raw
    for part in loc:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            if kind == "missing" and isinstance(part, str):
                path.append(part)
        else:
            path.append(str(part))
    return tuple(path)


def _reason(path: KeyPath, found: list[ErrorDetails], raw: dict[Any, Any]) -> tuple[str, str]:
    """Why the value at `path` is refused, and the fix."""
    method = raw["method"].get("name") if isinstance(raw.get("method"), dict) else None
    name = path[0]
    section = sections(method).get(name, Section)
    key = section.model_fields.get(path[1]) if len(path) > 1 else None
    meaning = f" ({key.description})" if key and key.description else ""
    kind, value, loc = found[0]["type"], found[0]["input"], found[0]["loc"]
    match kind:
        case "extra_forbidden":
            return unknown_key(path, method)
        case "invalid_key":
            return "is not a name", "write a key that is a word"
        case "missing" if isinstance(loc[-1], str):
            return _MISSING, f"add {dotted(path)}{meaning or _needs(name, section)}"
        case "missing" | "too_short" | "too_long":
            wanted = len(get_args(key.annotation)) if key else 0
            fix = f"write a list of {wanted}{meaning}"
            return f"{shown(value)} does not hold {wanted} values", fix
        case "union_tag_not_found":
            return _MISSING, f"add method.name: {either(METHOD_SECTIONS)}"
        case "union_tag_invalid":
            why, fix = _not_among(list(METHOD_SECTIONS), method, "")
            return why, FOREIGN_METHODS.get(str(method).lower(), fix)
        case "model_type" | "model_attributes_type":
            return _not_a_section(name, value, section)
        case "value_error":
            return _refused(str(found[0].get("ctx", {}).get("error")), value, meaning)
    return _wrong_kind(found, key, meaning)


def _wrong_kind(found: list[ErrorDetails], key: FieldInfo | None, meaning: str) -> tuple[str, str]:
    """A value of another kind than the key takes, or out of its range."""
    value = found[0]["input"]
    if all(details["type"] == "literal_error" for details in found):
        return _not_among(_choices(found[0]), value, meaning)
    wanted = either(dict.fromkeys(kind for details in found for kind in _kinds(details, key)))
    fix = f"write {wanted}{meaning}"
    if "text" in wanted and isinstance(value, int | float):
        fix = f"put it in quotes, to make it text{meaning}"
    elif value is None and key and not key.is_required():
        fix += f", or leave the key out for the default, {shown(key.default)}"
    return f"{shown(value)} is not {wanted}", fix


def _kinds(details: ErrorDetails, key: FieldInfo | None) -> list[str]:
    """What the schema wanted instead, in words."""
    if details["type"] == "literal_error":
        return _choices(details)
    limits = {name: limit for name, limit in details.get("ctx", {}).items() if name in _BOUNDS}
    if limits:
        number = "a whole number" if isinstance(next(iter(limits.values())), int) else "a number"
        marks = key.metadata if key else []
        limits |= {name: getattr(m, name) for m in marks for name in _BOUNDS if hasattr(m, name)}
        if limits.keys() == {"ge", "le"}:
            return [f"{number} between {limits['ge']:g} and {limits['le']:g}"]
        bounds = [words.format(limits[name]) for name, words in _BOUNDS.items() if name in limits]
        return [f"{number} {' and '.join(bounds)}"]
    default = details["msg"].removeprefix("Input should be ")
    return [_KINDS.get(details["type"].split("_")[0], default)]


def _choices(details: ErrorDetails) -> list[str]:
    return re.findall("'([^']*)'", details.get("ctx", {}).get("expected", ""))


def _not_among(names: list[str], value: object, meaning: str) -> tuple[str, str]:
    """A name that is not one of `names`."""
    near = get_close_matches(str(value), names, n=1)
    fix = f"did you mean {near[0]}?" if near else f"write one of these{meaning}"
    return f"{shown(value)} is not one of {', '.join(names)}", fix


def _not_a_section(name: str, value: object, section: type[BaseModel]) -> tuple[str, str]:
    """A bare value where a section belongs."""
    if value is None:
        rest = (
            _needs(name, section) if Recipe.model_fields[name].is_required() else ", or delete it"
        )
        return "is empty", f"write keys under it{rest}"
    if isinstance(value, str):
        fix = f"write {name}: {{{_main_keys(name, section)[0]}: {value}}}"
        return f"{shown(value)} is not a section", fix
    return f"{shown(value)} is not a section", f"write keys under it{_needs(name, section)}"


def _main_keys(name: str, section: type[BaseModel]) -> list[str]:
    """Keys that the section needs; where it needs none, its most telling one."""
    needed = [key for key, field in section.model_fields.items() if field.is_required()]
    return needed or (["name"] if name == "method" else list(section.model_fields)[:1])


def _needs(name: str, section: type[BaseModel]) -> str:
    return f", with {either([f'{name}.{key}' for key in _main_keys(name, section)], 'and')}"


def _refused(text: str, value: object, meaning: str) -> tuple[str, str]:
    """What a validator of ours says: "needs ...", "is not one of a, b", or "why: fix"."""
    if text.startswith("is not one of "):
        return _not_among(text.removeprefix("is not one of ").split(", "), value, meaning)
    if text.startswith("needs "):
        return text, f"write {text.removeprefix('needs ')}"
    why, _, fix = text.partition(": ")
    return why, fix or f"write another value{meaning}"
