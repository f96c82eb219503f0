"""Templates of launch/, in the checkout that launch/train.py is started from."""

import json
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateNotFound

from bigpeft.errors import FileError

_BESIDE = Path(__file__).resolve().parents[2] / "launch"


def render(name: str, values: Mapping[str, Any]) -> str:
    """Fill a template; `|sh` quotes a word for a shell, `|json` writes a value for YAML.

    Raises FileError where the checkout has no templates.
    """
    places = [Path("launch"), _BESIDE]
    environment = Environment(  # shell and YAML, not HTML: every value goes through a filter
        loader=FileSystemLoader(places),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    environment.filters["json"] = partial(json.dumps, ensure_ascii=False)
    try:
        return environment.get_template(name).render(values)
    except TemplateNotFound as error:
        raise FileError(
            f"launch/{name}", "is missing", "run bigpeft launch in a checkout of bigpeft"
        ) from error
