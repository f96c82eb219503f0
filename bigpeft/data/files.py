"""What a data path means: a file, a folder, a glob, or the name of a data set on the hub."""

import glob
import re
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


def find(path: str, split: str | None = None) -> tuple[Path, ...] | None:
    """Files (and saved Arrow folders) that `path` stands for, sorted; None for a hub name.

    `split` takes those of a folder with splits. Raises DataError when nothing is there.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _inside(place, split)
    if is_hub_name(path) and not kind_of(place) and not place.exists():
        return None
    if split is not None:
        raise DataError(
            path,
            f"is no folder and no hub name, so it has no split {split!r}",
            "name the split's own file, and leave the split out",
        )
    if place.exists():
        return (place,)
    if any(letter in path for letter in "*?["):
        hits = sorted(glob.glob(str(place), recursive=True))
        if hits:
            return tuple(Path(hit) for hit in hits)
        raise DataError(path, f"matches no file in {Path.cwd()}", "check the pattern in the recipe")
    raise DataError(
        path, f"does not exist (looked in {Path.cwd()})", "check the path in the recipe"
    )


def _inside(folder: Path, split: str | None) -> tuple[Path, ...]:
    """Files of a folder, or of one split of it: a folder or files of that name."""
    if (folder / "state.json").is_file() and split is None:
        return (folder,)
    files = tuple(sorted(file for file in folder.iterdir() if file.is_file() and kind_of(file)))
    if (folder / "dataset_dict.json").is_file():
        files = ()
    if split is None and files:
        return files
    splits = _splits(folder, files)
    if split in splits:
        return splits[split]
    if split is None and not splits:
        raise DataError(
            str(folder), f"holds no file ending in {', '.join(KINDS)}", "name the files themselves"
        )
    there = f"the splits {', '.join(splits)}" if splits else "no splits"
    wrong = there if split is None else f"{there}, and no {split!r}"
    likely = "train" if "train" in splits else next(iter(splits), None)
    fix = f"write split: {likely}" if likely else "leave the split out"
    raise DataError(str(folder), f"holds {wrong}", fix)


def _splits(folder: Path, files: tuple[Path, ...]) -> dict[str, tuple[Path, ...]]:
    """Name → files: folders with data in them, else the first word of each file's name."""
    found: dict[str, tuple[Path, ...]] = {}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        inside = tuple(sorted(file for file in inner.iterdir() if kind_of(file)))
        if is_saved_dataset(inner):
            found[inner.name] = (inner,)
        elif inside:
            found[inner.name] = inside
    for file in files:
        name = re.split(r"[^A-Za-z0-9]", file.name)[0]
        found[name] = (*found.get(name, ()), file)
    return found
