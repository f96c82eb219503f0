"""A folder that HF peft opens: adapter_config.json and adapter_model.safetensors."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bigpeft.backbone.copies.writer import Entry, unwritable, write_file
from bigpeft.recipe import Recipe

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def common_config(recipe: Recipe, kind: str) -> dict[str, Any]:
    """What the configuration of every adapter over this recipe's model says."""
    return {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": recipe.model.name,
        "revision": recipe.model.revision,
        "inference_mode": True,
    }


def write_peft_folder(
    out: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    beside: Mapping[str, object] | None = None,
) -> None:
    """Write the folder whole or not at all; `beside` are further JSON files by name.

    Raises FileError for a place that cannot be written.
    """
    part = out.with_name(out.name + ".part")
    entries = [Entry(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name, content in {CONFIG: config, **(beside or {})}.items():
            (part / name).write_text(json.dumps(content, indent=2) + "\n")
        write_file(part / TENSORS, entries, tensors.values())
        os.replace(part, out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
