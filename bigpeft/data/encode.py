"""Text with learned spans → token ids with a target mask, many texts at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Draft:
    """A text before tokenisation, `spans` of characters [start, end) to be learned.

    `bare` text has no special tokens yet: it gets the tokenizer's opening ones (BOS, where the
    tokenizer adds one) and a learned EOS.
    """

    text: str
    spans: Spans
    bare: bool = False


def encode(
    drafts: Sequence[Draft], tokenizer: "PreTrainedTokenizerBase"
) -> list[tuple[Tensor, Tensor]]:
    """For each draft ids int32 (n,) and targets bool (n,).

    A text is tokenised once, whole; a token is a target when it holds a character of a span. The
    first token is none: nothing precedes it that could predict it.
    """
    texts = [draft.text for draft in drafts]
    if tokenizer.is_fast:
        batch = tokenizer(
            texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = batch["input_ids"]
        masks = [
            _by_offsets(offsets, draft.spans)
            for offsets, draft in zip(batch["offset_mapping"], drafts, strict=True)
        ]
    else:
        ids = [_ids(text, tokenizer) for text in texts]
        masks = [
            _by_prefixes(row, draft, tokenizer) for row, draft in zip(ids, drafts, strict=True)
        ]
    opening = _opening(tokenizer) if any(draft.bare for draft in drafts) else []
    eos: Any = tokenizer.eos_token_id
    rows = []
    for row, mask, draft in zip(ids, masks, drafts, strict=True):
        row_ids = torch.tensor(row, dtype=torch.int32)
        if draft.bare:
            row_ids, mask = _closed(row_ids, mask, opening, eos)
        mask[:1] = False
        rows.append((row_ids, mask))
    return rows


def _by_offsets(offsets: list[tuple[int, int]], spans: Spans) -> Tensor:
    """Character ranges (n, 2) of the tokens → targets (n,).

    Byte-level tokenizers may report a token of spaces as empty; it then reaches back to the token
    before it.
    """
    ranges = torch.tensor(offsets, dtype=torch.int64).reshape(-1, 2)
    low, high = ranges.unbind(1)
    reached = torch.cat([low.new_zeros(1), high]).cummax(0).values[:-1]
    empty = low == high
    low = torch.where(empty, torch.minimum(low, reached), low)
    high = torch.where(low == high, high + 1, high)
    targets = torch.zeros(len(ranges), dtype=torch.bool)
    for start, end in spans:
        targets |= (low < end) & (high > start)
    return targets


def _by_prefixes(ids: list[int], draft: Draft, tokenizer: "PreTrainedTokenizerBase") -> Tensor:
    """The same without offsets: a prefix of the text has the same first tokens as the text."""
    targets = torch.zeros(len(ids), dtype=torch.bool)
    for span in draft.spans:
        first, last = (_shared(ids, _ids(draft.text[:cut], tokenizer)) for cut in span)
        targets[first:last] = True
    return targets


def _shared(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _opening(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that the tokenizer puts before a text when it adds special tokens."""
    plain, full = _ids("a", tokenizer), tokenizer("a", verbose=False)["input_ids"]
    starts = (i for i in range(len(full)) if full[i : i + len(plain)] == plain)
    return full[: next(starts, 0)]


def _closed(
    ids: Tensor, targets: Tensor, opening: list[int], eos: int | None
) -> tuple[Tensor, Tensor]:
    """With the opening tokens unless the text spells them out already, and one learned EOS."""
    if opening and ids[: len(opening)].tolist() != opening:
        ids = torch.cat([torch.tensor(opening, dtype=ids.dtype), ids])
        targets = torch.cat([targets.new_zeros(len(opening)), targets])
    if eos is not None and ids[-1:].tolist() != [eos]:
        ids = torch.cat([ids, torch.tensor([eos], dtype=ids.dtype)])
        targets = torch.cat([targets, targets.new_ones(1)])
    return ids, targets
