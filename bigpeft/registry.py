"""A folder of files is a list of names: file `methods/extension/lora.py` is method `lora`.

Nothing is registered by hand. A file that defines no class of the wanted kind is an error, and so
are two files with the same name or a class without a docstring.
"""

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any


def scan(package: ModuleType, base: type, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Name → the one final class derived from `base` in each module of `package`, folders included.

    Modules whose bare name is in `skip`, or starts with an underscore, belong to the machinery.
    Raises TypeError when a module breaks the rules above: that is a mistake in the library.
    """
    return dict(_scan(package.__name__, base, skip))


@cache
def _scan(package_name: str, base: type, skip: frozenset[str]) -> dict[str, Any]:
    package = importlib.import_module(package_name)
    found: dict[str, Any] = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        name = info.name.rpartition(".")[2]
        if info.ispkg or name in skip or name.startswith("_"):
            continue
        module = importlib.import_module(info.name)
        classes = [
            member
            for member in vars(module).values()
            if inspect.isclass(member)
            and member.__module__ == info.name
            and issubclass(member, base)
            and not inspect.isabstract(member)
        ]
        if len(classes) != 1:
            raise TypeError(f"{info.name} must define one {base.__name__}, it defines {classes}")
        if name in found:
            raise TypeError(f"{info.name} and {found[name].__module__} have the same name")
        if not (module.__doc__ or classes[0].__doc__):
            raise TypeError(f"{info.name} needs a docstring: it is what the user reads")
        found[name] = classes[0]
    return dict(sorted(found.items()))
