"""Text with learned spans → token ids with a target mask, many texts at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

Spans = tuple[tuple[int, int], ...]
Mask = NDArray[np.bool_]


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
        backend: Any = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        masks = [
            mask_of(encoding, draft.spans)
            for encoding, draft in zip(encodings, drafts, strict=True)
        ]
    else:
        rows = [_ids(text, tokenizer) for text in texts]
        masks = [
            _by_prefixes(row, draft, tokenizer) for row, draft in zip(rows, drafts, strict=True)
        ]
    opening = opening_of(tokenizer) if any(draft.bare for draft in drafts) else []
    found = []
    for ids, mask, draft in zip(rows, masks, drafts, strict=True):
        if draft.bare:
            ids, mask = _closed(ids, mask, opening, tokenizer.eos_token_id)  # type: ignore[arg-type]
        mask[:1] = False
        found.append((torch.from_numpy(np.array(ids, dtype=np.int32)), torch.from_numpy(mask)))
    return found


def opening_of(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that the tokenizer puts before a text when it adds special tokens."""
    plain, full = _ids("a", tokenizer), tokenizer("a", verbose=False)["input_ids"]
    starts = (i for i in range(len(full)) if full[i : i + len(plain)] == plain)
    return full[: next(starts, 0)]


def mask_of(encoding: "Encoding", spans: Spans) -> Mask:
    """Targets (n,) of a tokenised text: tokens that hold a character of a span.

    Asks for the few tokens at the ends of each span: a list of the places of all tokens would cost
    a fifth of tokenising.
    """
    count = len(encoding)
    mask = np.zeros(count, dtype=bool)
    for start, end in spans:
        inside = range(start, end)
        first = next(filter(_is_token, map(encoding.char_to_token, inside)), None)
        last = next(filter(_is_token, map(encoding.char_to_token, reversed(inside))), None)
        if first is None or last is None:  # nothing but spaces, whose tokens say nothing
            first = last = _nearest(encoding, start)
            last -= 1
        while first > 0 and _reach(encoding, first - 1)[1] > start:
            first -= 1
        while last + 1 < count and _reach(encoding, last + 1)[0] < end:
            last += 1
        mask[first : last + 1] = True
    return mask


def _is_token(found: int | None) -> bool:
    return found is not None


def _nearest(encoding: "Encoding", start: int) -> int:
    """The first token that does not end before `start`."""
    ends = [high for _, high in encoding.offsets]
    return next((token for token, high in enumerate(ends) if high > start), len(ends))


def _reach(encoding: "Encoding", token: int) -> tuple[int, int]:
    """Characters [low, high) of a token.

    Byte-level tokenizers may report a token of spaces as empty; it then reaches back to the token
    before it.
    """
    low, high = encoding.token_to_chars(token) or (0, 0)
    if low == high:
        before = (encoding.token_to_chars(token - 1) or (0, 0))[1] if token else 0
        low = min(low, before)
        high = max(high, low + 1)
    return low, high


def _by_prefixes(ids: list[int], draft: Draft, tokenizer: "PreTrainedTokenizerBase") -> Mask:
    """The same without offsets: a prefix of the text has the same first tokens as the text."""
    targets = np.zeros(len(ids), dtype=bool)
    for span in draft.spans:
        first, last = (_shared(ids, _ids(draft.text[:cut], tokenizer)) for cut in span)
        targets[first:last] = True
    return targets


def _shared(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _ids(text: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _closed(
    ids: list[int], targets: Mask, opening: list[int], eos: int | None
) -> tuple[list[int], Mask]:
    """With the opening tokens unless the text spells them out already, and one learned EOS."""
    if opening and ids[: len(opening)] != opening:
        ids = [*opening, *ids]
        targets = np.concatenate([np.zeros(len(opening), dtype=bool), targets])
    if eos is not None and ids[-1:] != [eos]:
        ids = [*ids, eos]
        targets = np.append(targets, True)
    return ids, targets
