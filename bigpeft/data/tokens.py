"""Tokenised rows as three flat tensors, and the file that keeps them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bigpeft.errors import DataError


@dataclass(frozen=True)
class Tokens:
    """Rows end to end: row i is [offsets[i], offsets[i + 1]).

    `ids` int32 (n,), `targets` bool (n,) true where the loss falls, `offsets` int64 (rows + 1,).
    `dropped` rows of the source are not here because of their length.
    """

    ids: Tensor
    targets: Tensor
    offsets: Tensor
    dropped: int = 0

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

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[Tensor, Tensor]:
        """Ids int32 (n,) and targets bool (n,) of one row."""
        start, end = self.offsets[index : index + 2].tolist()
        return self.ids[start:end], self.targets[start:end]

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        tensors = {"ids": self.ids, "targets": self.targets, "offsets": self.offsets}
        save_file(tensors, str(path), metadata={"dropped": str(self.dropped)})

    @classmethod
    def load(cls, path: Path) -> "Tokens":
        """Map the file into memory. Raises ValueError when it is damaged."""
        try:
            with safe_open(str(path), framework="pt") as file:
                ids, targets, offsets = (
                    file.get_tensor(name) for name in ("ids", "targets", "offsets")
                )
                tokens = cls(ids, targets, offsets, int((file.metadata() or {})["dropped"]))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is no file of tokens ({error})") from error
        ends = (tokens.offsets[:1].tolist(), tokens.offsets[-1:].tolist())
        if ends != ([0], [len(ids)]) or len(ids) != len(targets):
            raise ValueError(f"{path} is no file of tokens (its tensors disagree)")
        return tokens


def check_vocabulary(tokens: Tokens, vocab_size: int) -> None:
    """Raises DataError when a token id lies beyond the model's embedding."""
    highest = int(tokens.ids.max()) if len(tokens.ids) else -1
    if highest >= vocab_size:
        raise DataError(
            "model.tokenizer",
            f"makes token id {highest}, the model's vocabulary ends at {vocab_size - 1}",
            "use the tokenizer that belongs to the model",
        )
