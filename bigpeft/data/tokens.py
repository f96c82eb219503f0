"""Tokenised rows as three flat tensors, and the file that keeps them."""

import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigpeft.errors import DataError

_MOST_TOLD = 10_000
_COUNTS = ("dropped", "read", "truncated", "split")


@dataclass(frozen=True)
class Skipped:
    """Rows that could not be used: how many, and place and reason of the first ten thousand."""

    count: int = 0
    told: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, errors: Sequence[DataError]) -> "Skipped":
        """From what was wrong with each."""
        told = tuple((error.what, error.why) for error in errors[:_MOST_TOLD])
        return cls(len(errors), told)


@dataclass(frozen=True)
class Tokens:
    """Rows end to end: row i is [offsets[i], offsets[i + 1]).

    `ids` int32 (n,), `targets` bool (n,) true where the loss falls, `offsets` int64 (rows + 1,).
    Of the `read` rows of the source, `dropped` ones are not here because of their length, `skipped`
    ones because they could not be used; `truncated` and `split` ones are here, but not whole.
    """

    ids: Tensor
    targets: Tensor
    offsets: Tensor
    dropped: int = 0
    skipped: Skipped = Skipped()
    read: int = 0
    truncated: int = 0
    split: int = 0

    @classmethod
    def of(cls, rows: list[tuple[Tensor, Tensor]], dropped: int = 0) -> "Tokens":
        """From ids (n,) and targets (n,) of each row."""
        lengths = torch.tensor([0, *(len(ids) for ids, _ in rows)], dtype=torch.int64)
        empty_ids, empty_targets = torch.zeros(0, dtype=torch.int32), torch.zeros(0).bool()
        return cls(
            ids=torch.cat([empty_ids, *(ids for ids, _ in rows)]),
            targets=torch.cat([empty_targets, *(targets for _, targets in rows)]),
            offsets=lengths.cumsum(0),
            dropped=dropped,
        )

    @classmethod
    def joined(cls, parts: Sequence["Tokens"]) -> "Tokens":
        """All rows of these, in order."""
        if len(parts) == 1:
            return parts[0]
        lengths = [torch.zeros(1, dtype=torch.int64), *(part.offsets.diff() for part in parts)]
        return cls(
            ids=torch.cat([part.ids for part in parts]),
            targets=torch.cat([part.targets for part in parts]),
            offsets=torch.cat(lengths).cumsum(0),
            skipped=Skipped(
                sum(part.skipped.count for part in parts),
                tuple(told for part in parts for told in part.skipped.told),
            ),
            **{name: sum(getattr(part, name) for part in parts) for name in _COUNTS},
        )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Ids int32 (n,) and targets bool (n,) of one row."""
        start, end = self.offsets[index : index + 2].tolist()
        return self.ids[start:end], self.targets[start:end]

    def select(self, rows: Tensor) -> "Tokens":
        """These rows, int64 (n,), in this order; one may come again and again."""
        starts, lengths = self.offsets[rows], self.offsets.diff()[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(lengths)
        places = starts.repeat_interleave(lengths) + within
        return replace(self, ids=self.ids[places], targets=self.targets[places], offsets=offsets)

    def without(self, skipped: Sequence[DataError]) -> "Tokens":
        """The same, with the errors of the rows that are not here."""
        return replace(self, skipped=Skipped.of(skipped))

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        tensors = {"ids": self.ids, "targets": self.targets, "offsets": self.offsets}
        about = {
            "counts": {name: getattr(self, name) for name in _COUNTS},
            "skipped": [self.skipped.count, self.skipped.told],
            "checksum": _checksum(tensors.values()),
        }
        save_file(tensors, str(path), metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "Tokens":
        """Map the file into memory. Raises ValueError when it is damaged."""
        try:
            with safe_open(str(path), framework="pt") as file:
                ids, targets, offsets = map(file.get_tensor, ("ids", "targets", "offsets"))
                about = json.loads((file.metadata() or {})["about"])
            count, told = about["skipped"]
            skipped = Skipped(count, tuple((what, why) for what, why in told))
            if about["checksum"] != _checksum((ids, targets, offsets)):
                raise ValueError(f"{path} is no file of tokens (its checksum differs)")
            counts = {name: about["counts"][name] for name in _COUNTS}
            return cls(ids, targets, offsets, skipped=skipped, **counts)
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is no file of tokens ({error})") from error


def _checksum(tensors: Iterable[Tensor]) -> int:
    """crc32 of their bytes: a disk that lies is found, at a gigabyte a second."""
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.numpy().data, found)
    return found


def check_vocabulary(tokens: Tokens, vocab_size: int) -> None:
    """Raises DataError when a token id lies beyond the model's embedding."""
    highest = int(tokens.ids.max()) if len(tokens.ids) else -1
    if highest >= vocab_size:
        raise DataError(
            "model.tokenizer",
            f"makes token id {highest}, the model's vocabulary ends at {vocab_size - 1}",
            "use the tokenizer that belongs to the model",
        )
