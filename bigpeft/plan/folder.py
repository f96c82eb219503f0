"""model.name → a folder on this machine."""

import logging
import os
from pathlib import Path

from bigpeft.backbone.copies.gguf import converted
from bigpeft.errors import FileError, RecipeError
from bigpeft.recipe import Model

_log = logging.getLogger(__name__)
_SHAPES = Path(__file__).with_name("shapes")
_BESIDE = ["*.json", "*.model", "*.txt", "*.jinja"]
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def resolve_model_folder(model: Model, weights: bool = True) -> Path | None:
    """The folder itself, or the local copy of a hub model; None for an inline configuration.

    Without `weights`, or where they are random, a hub model's configuration is enough, and those of
    some large models ship with bigpeft.

    A GGUF file, or a folder of one and no other weights, is dequantised once into `model.cache` or
    the user's cache. Raises FileError for a folder that is not there, or a hub model that cannot be
    fetched.
    """
    if model.name is None:
        return None
    folder = Path(model.name).expanduser()
    if folder.is_file() and folder.suffix == ".gguf":
        return converted(folder, _cache(model), _log.warning)
    if folder.is_dir():
        if model.config is not None:
            raise RecipeError(
                "model.config", "is given beside model.name", "keep one of them (null drops a key)"
            )
        return _without_gguf(folder, model)
    looks_like_path = model.name.startswith((".", "/", "~")) or model.name.count("/") != 1
    if looks_like_path or Path(model.name.partition("/")[0]).is_dir():
        raise FileError(
            f"model.name: {model.name}",
            "is no folder on this machine",
            "write the folder of a Hugging Face model, or a hub name such as org/name",
        )
    if not weights or model.random:
        shipped = _SHAPES / model.name
        return shipped if shipped.is_dir() else _download(model, ())
    return _without_gguf(_download(model, _WEIGHTS), model)


def _without_gguf(folder: Path, model: Model) -> Path:
    """The folder, or what its GGUF file became where it holds no other weights."""
    found = {kind: sorted(folder.glob(kind)) for kind in _WEIGHTS}
    files = found.pop("*.gguf")
    if not files or any(found.values()):
        return folder
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise FileError(
            f"model.name: {folder}", f"holds several GGUF files ({names})", "name one of them"
        )
    return converted(files[0], _cache(model), _log.warning)


def _cache(model: Model) -> Path:
    if model.cache is not None:
        return Path(model.cache)
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bigpeft"


def _download(model: Model, weights: tuple[str, ...]) -> Path:
    """Configuration, tokenizer and one kind of `weights`: safetensors where the hub has them.

    Files that are here already are not asked for again; offline, those must do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert model.name is not None
    beside = [*_BESIDE, *(["*.py"] if model.trust_remote_code else [])]
    try:
        for kind in weights or (None,):
            wanted = beside if kind is None else [*beside, kind]
            found = snapshot_download(model.name, revision=model.revision, allow_patterns=wanted)
            if kind and any(Path(found).glob(kind)):
                break
        return Path(found)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise FileError(
            f"model.name: {model.name}",
            f"is neither a folder here nor a hub model that can be fetched{offline}: "
            f"{str(error).splitlines()[0]}",
            "check the name and the network, or copy the model into a folder; "
            "an interrupted download goes on where it stopped",
        ) from error
