"""Where weights come from: one file per format."""

import json
from pathlib import Path
from typing import Any

from bigpeft.backbone.sources import packed, safetensors, torch_bin
from bigpeft.backbone.sources.bitsandbytes import BitsAndBytesFolder
from bigpeft.backbone.sources.packed import PackedFolder
from bigpeft.backbone.sources.random import RandomWeights, written_dtype
from bigpeft.backbone.sources.safetensors import SafetensorsFolder
from bigpeft.backbone.sources.source import WeightSource
from bigpeft.backbone.sources.torch_bin import TorchBinFolder
from bigpeft.backbone.sources.verified import Verified
from bigpeft.errors import WeightError

__all__ = [
    "BitsAndBytesFolder",
    "PackedFolder",
    "RandomWeights",
    "SafetensorsFolder",
    "TorchBinFolder",
    "Verified",
    "WeightSource",
    "open_folder",
    "written_dtype",
]


def open_folder(folder: Path) -> WeightSource:
    """The weights of a model folder, by what lies in it.

    Raises WeightError for damaged files, for weights that another tool quantised, and for a folder
    without any.
    """
    if (folder / packed.MANIFEST).is_file():
        return PackedFolder(folder)
    quantised = _quantisation(folder)
    if quantised.get("load_in_4bit"):
        return BitsAndBytesFolder(folder)
    if quantised:
        raise WeightError(
            str(folder),
            f"is quantised by {quantised.get('quant_method', 'another tool')}; of quantised models "
            "bigpeft reads its own and 4-bit ones of bitsandbytes",
            "use the dense model; model.weights packs it",
        )
    if any((folder / name).is_file() for name in (safetensors.SINGLE, safetensors.INDEX)):
        return SafetensorsFolder(folder)
    if any((folder / name).is_file() for name in (torch_bin.SINGLE, torch_bin.INDEX)):
        return TorchBinFolder(folder)
    return SafetensorsFolder(folder)


def _quantisation(folder: Path) -> dict[str, Any]:
    """What config.json says about how the weights were quantised."""
    try:
        return json.loads((folder / "config.json").read_text()).get("quantization_config") or {}
    except (OSError, ValueError):
        return {}
