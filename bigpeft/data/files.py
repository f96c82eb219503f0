"""What a data path means: a file, a folder, a glob, or the name of a data set on the hub."""

import glob
from pathlib import Path

from bigpeft.data.hub import is_hub_name
from bigpeft.errors import DataError

KINDS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")


def kind_of(path: Path) -> str:
    """The suffix that says how to read a file, ".gz" set aside; "" for one that says nothing."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    return suffix if suffix in KINDS else ""


def is_saved_dataset(path: Path) -> bool:
    """Whether the folder was written by `Dataset.save_to_disk`."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()


def find(path: str) -> tuple[Path, ...] | None:
    """Files (and saved Arrow folders) that `path` stands for, sorted; None for a hub name.

    Raises DataError when nothing is there.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return (place,) if is_saved_dataset(place) else _inside(place)
    if place.exists():
        return (place,)
    if any(letter in path for letter in "*?["):
        hits = sorted(glob.glob(str(place), recursive=True))
        if hits:
            return tuple(Path(hit) for hit in hits)
        raise DataError(path, f"matches no file in {Path.cwd()}", "check the pattern in the recipe")
    if is_hub_name(path) and not kind_of(place):
        return None
    raise DataError(
        path, f"does not exist (looked in {Path.cwd()})", "check the path in the recipe"
    )


def _inside(folder: Path) -> tuple[Path, ...]:
    files = tuple(sorted(file for file in folder.iterdir() if file.is_file() and kind_of(file)))
    if not files:
        raise DataError(
            str(folder), f"holds no file ending in {', '.join(KINDS)}", "name the files themselves"
        )
    return files
