"""model.name → a folder on this machine."""

import os
from pathlib import Path

from bigpeft.errors import FileError, RecipeError
from bigpeft.recipe import Model

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def resolve_model_folder(model: Model) -> Path | None:
    """The folder itself, or the local copy of a hub model; None for an inline configuration.

    Raises FileError for a folder that is not there, or a hub model that cannot be fetched.
    """
    if model.name is None:
        return None
    folder = Path(model.name).expanduser()
    if folder.is_dir():
        if model.config is not None:
            raise RecipeError(
                "model.config", "is given beside model.name", "keep one of them (null drops a key)"
            )
        return folder
    looks_like_path = model.name.startswith((".", "/", "~")) or model.name.count("/") != 1
    if looks_like_path or Path(model.name.partition("/")[0]).is_dir():
        raise FileError(
            f"model.name: {model.name}",
            "is no folder on this machine",
            "write the folder of a Hugging Face model, or a hub name such as org/name",
        )
    return _download(model.name, model.revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise FileError(
            f"model.name: {name}",
            f"is neither a folder here nor a hub model that can be fetched{offline}: "
            f"{str(error).splitlines()[0]}",
            "check the name and the network, or copy the model into a folder; "
            "an interrupted download goes on where it stopped",
        ) from error
