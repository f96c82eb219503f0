"""Rows of several sources in one order: by weights, until a source is used up or all are."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Mix = Literal["concatenate", "first_exhausted", "all_exhausted"]


def mixed(counts: Sequence[int], weights: Sequence[float], mix: Mix, seed: int) -> Tensor:
    """Rows int64 (n,) of the sources laid end to end, `counts` of them each.

    A source is drawn by its weight for each row, and gives its rows in turn, as
    `datasets.interleave_datasets` does: until the first source has no more, or until every one has
    given all of its rows, where the others begin again.
    """
    if mix == "concatenate":
        return torch.arange(sum(counts))
    from datasets import Dataset, interleave_datasets

    first = torch.tensor([0, *counts]).cumsum(0).tolist()
    sources = [
        Dataset.from_dict({"row": range(start, start + count)})
        for start, count in zip(first, counts, strict=False)
    ]
    shares = [weight / sum(weights) for weight in weights]
    order = interleave_datasets(sources, shares, seed=seed, stopping_strategy=mix)
    return torch.tensor(order["row"][:], dtype=torch.int64)
