"""What a recipe says that the defaults do not, and what recipes say that others do not."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from bigpeft.recipe import Recipe


class Change(NamedTuple):
    """A key, what this recipe says, and the default (None where the key has to be given)."""

    key: str
    value: Any
    default: Any
    required: bool


def changes(recipe: Mapping[str, Any]) -> list[Change] | None:
    """Keys that differ from their defaults; None for a recipe of another version of bigpeft."""
    try:
        whole = Recipe.model_validate(recipe)
    except ValidationError:
        return None
    found: list[Change] = []
    for name in Recipe.model_fields:
        section = getattr(whole, name)
        if isinstance(section, BaseModel):
            found += _of_section(name, section)
    return found


def _of_section(name: str, section: BaseModel) -> list[Change]:
    said = section.model_dump(mode="json")
    found = []
    for key, field in type(section).model_fields.items():
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        if required or getattr(section, key) != default:
            found.append(Change(f"{name}.{key}", said[key], default, required))
    return found


def differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted key → what each recipe says, for keys on which they do not agree; None for nothing.

    Where the results go is no difference.
    """
    flat = [flatten(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    told = {key: [one.get(key) for one in flat] for key in keys if key != "run.folder"}
    return {key: values for key, values in told.items() if any(v != values[0] for v in values)}


def flatten(recipe: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested sections under dotted keys; lists and empty sections are values."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat
