"""From a YAML file and command-line overrides to a checked recipe, and back to YAML."""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from bigpeft.errors import FileError, RecipeError
from bigpeft.recipe.explain import KeyPath, Sources, dotted, explain, shown
from bigpeft.recipe.sections import METHOD_SECTIONS, Recipe

_PLAIN = ("map", "seq", "str", "int", "float", "bool", "null", "merge")
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in _PLAIN}
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")


Place = Callable[[int | None], str]
"""Name of a line of the file, or of the whole where no line is known."""

_LOOK = "look at this line and the one above: indentation, quotes, brackets"
_QUOTE = "quote the whole argument for the shell, such as 'method.target_modules=[q_proj, v_proj]'"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 in which 1e-4 is a number, as in YAML 1.2, and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML reads it from the class
        first: [(tag, regexp) for tag, regexp in resolvers if tag in _PLAIN_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Lists in one line, no value abbreviated by an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value in full."""
        return True


def _one_line(dumper: yaml.SafeDumper, values: Iterable[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # PyYAML folds these line breaks of Unicode into \n unless they are escaped.
    style = '"' if re.search("[\x85\u2028\u2029]", value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_representer(str, _text)
for _kind in (list, tuple):
    _Dumper.add_representer(_kind, _one_line)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file at `path`, with `section.key=value` overrides put over it.

    Raises FileError for a file that cannot be read, and RecipeError, naming key, line and fix,
    for one that is not YAML or not a recipe.
    """
    raw, lines = _parse(_read(path), lambda line: f"{path}:{line}" if line else str(path))
    if raw is None:
        needed = [name for name, field in Recipe.model_fields.items() if field.is_required()]
        raise RecipeError(str(path), "is empty", f"write the sections {', '.join(needed)}")
    if not isinstance(raw, dict):
        fix = "write sections with keys under them, such as batch: {global_size: 8}"
        raise RecipeError(str(path), f"holds {shown(raw)}, not sections", fix)
    sources = Sources(str(path), lines)
    changes = [_parse_override(text) for text in overrides]
    _make_room(raw, changes)
    for change in changes:
        _apply(change, raw, sources)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise explain(error, raw, sources) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; loads back equal."""
    sections = recipe.model_dump()
    sections["method"] = {"name": sections["method"]["name"], **sections["method"]}
    return yaml.dump(sections, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _read(path: Path) -> str:
    """Text of the file."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        near = get_close_matches(path.name, _recipes_in(path.parent), n=1)
        fix = f"did you mean {path.with_name(near[0])}?" if near else "check the path"
        raise FileError(str(path), "does not exist", fix) from None
    except IsADirectoryError:
        inside = _recipes_in(path)
        fix = f"name a file in it, such as {path / inside[0]}" if inside else "name a YAML file"
        raise FileError(str(path), "is a folder", fix) from None
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 text (byte {error.start})"
        raise FileError(str(path), why, "save it again as UTF-8") from None
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise FileError(str(path), why, "check the path and its permissions") from error


def _recipes_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.y*ml")) if folder.is_dir() else []


def _parse(text: str, place: Place, fix: str = _LOOK) -> tuple[Any, dict[KeyPath, int]]:
    """The value that YAML `text` holds, and the line of each key.

    `fix` is the advice for text that is not YAML.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        lines = _key_lines(root, place)
        return loader.construct_document(root), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = place(mark.line + 1 if mark else None)
        why = f"is not YAML: {error.problem}".replace("'<stream end>'", "the end")
        if "'\\t'" in (error.problem or ""):
            fix = "indent with spaces, not tabs"
        raise RecipeError(where, why, fix) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        why = f"holds the control character #x{ord(text[error.position]):02x}"
        raise RecipeError(place(line), why, "delete it") from None
    except ValueError:  # a number of 5000 digits, a character beyond Unicode
        why = "holds a value that cannot be read"
        raise RecipeError(place(None), why, "write a simpler value") from None
    except RecursionError:
        raise RecipeError(place(None), "is nested too deeply", "write fewer brackets") from None


def _key_lines(root: yaml.Node, place: Place) -> dict[KeyPath, int]:
    """Line of each key. Raises RecipeError for what YAML allows and a recipe does not."""
    lines: dict[KeyPath, int] = {}

    def visit(node: yaml.Node, path: KeyPath, outer: tuple[yaml.Node, ...]) -> None:
        where = f"{place(node.start_mark.line + 1)} {dotted(path)}".strip()
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise RecipeError(where, f"has the tag {tag}", "write a plain value, without a tag")
        if any(node is one for one in outer):
            raise RecipeError(where, "contains itself through an alias", "write the value out")
        inside = (*outer, node)
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                visit(item, (*path, str(index)), inside)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                visit(key, path, inside)
                child = path
                if key.tag != "tag:yaml.org,2002:merge":
                    child = (*path, str(key.value))
                    line = key.start_mark.line + 1
                    if child in lines:
                        why = f"is written twice, in line {lines[child]} and in line {line}"
                        raise RecipeError(f"{place(line)} {dotted(child)}", why, "delete one")
                    lines[child] = line
                visit(value, child, inside)

    visit(root, (), ())
    return lines


class _Change(NamedTuple):
    """One override of the command line."""

    path: KeyPath
    value: Any
    text: str


def _parse_override(text: str) -> _Change:
    where = f"command line: {text}"
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path) or key.startswith("-"):
        fix = "write section.key=value, such as train.steps=10"
        raise RecipeError(where, "is not an override", fix)
    if not value.strip():
        raise RecipeError(where, "has no value", f"write {key}=null to unset the key")
    return _Change(path, _parse(value, lambda line: where, _QUOTE)[0], text)


def _make_room(raw: dict[Any, Any], changes: Sequence[_Change]) -> None:
    """Drop keys of the file that an override replaces without naming them.

    Another method brings its own options; steps and epochs exclude each other.
    """
    given = {change.path: change.value for change in changes}
    method, train = raw.get("method"), raw.get("train")
    if isinstance(method, dict) and ("method", "name") in given:
        old, new = (
            set(METHOD_SECTIONS[name].model_fields) if name in METHOD_SECTIONS else set()
            for name in map(str, (method.get("name"), given["method", "name"]))
        )
        gone = old - new if new else set()
        raw["method"] = kept = {key: value for key, value in method.items() if key not in gone}
        if isinstance(kept.get("overrides"), dict):
            kept["overrides"] = {
                layer: {k: v for k, v in own.items() if k not in gone}
                if isinstance(own, dict)
                else own
                for layer, own in kept["overrides"].items()
            }
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        asked = given.get(("train", key)) is not None and ("train", other) not in given
        if isinstance(train, dict) and asked:
            raw["train"] = {k: value for k, value in train.items() if k != other}


def _apply(change: _Change, raw: dict[Any, Any], sources: Sources) -> None:
    """Put one override into `raw`; sections on its way are copied, for an alias may share them."""
    here = raw
    for depth, key in enumerate(change.path[:-1], start=1):
        value = here.get(key)
        if value is not None and not isinstance(value, dict):
            whole = dotted(change.path[:depth])
            why = f"cannot be set: {whole} is {shown(value)}, which has no keys"
            raise RecipeError(f"command line: {change.text}", why, f"set {whole} as a whole")
        here[key] = dict(value or {})
        here = here[key]
    here[change.path[-1]] = change.value
    sources.override(change.path, change.text)
