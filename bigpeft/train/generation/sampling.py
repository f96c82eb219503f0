"""How the next token is chosen."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase, StoppingCriteria

from bigpeft.world import stable_seed


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0. `top_p` keeps the likeliest tokens that together have this share.

    `stop` are token ids that end an answer, `until` texts that do, and that are not part of it; at
    most `max_new_tokens` are generated.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[int, ...] = ()
    until: tuple[str, ...] = ()

    def ended(self, answer: str) -> str:
        """What stands before the first of the texts that end an answer."""
        ends = [answer.find(text) for text in self.until if text in answer]
        return answer[: min(ends)] if ends else answer


class Draw(LogitsProcessor):
    """Adds Gumbel noise, so that the likeliest token is a draw from the distribution.

    The noise is a function of the seed, the prompt's number and how many tokens it has so far: what
    is drawn for a prompt depends neither on its neighbours in a batch nor on the rank it is on.
    """

    def __init__(self, seed: int, numbers: list[int], prompt_length: int) -> None:
        self._seed, self._numbers, self._length = seed, numbers, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary), log p up to a constant → the same with noise."""
        drawn = input_ids.shape[1] - self._length
        noise = torch.stack([self._noise(number, drawn, scores) for number in self._numbers])
        return scores + noise.to(scores)

    def _noise(self, number: int, drawn: int, scores: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(stable_seed(self._seed, f"{number}/{drawn}"))
        uniform = torch.rand(scores.shape[1], generator=generator, dtype=torch.float64)
        return -(-uniform.clamp_min(1e-300).log()).log()


class Until(StoppingCriteria):
    """Ends the answers in which one of some texts has appeared behind the prompt."""

    def __init__(
        self, texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, prompt_length: int
    ) -> None:
        self._texts, self._tokenizer, self._length = texts, tokenizer, prompt_length
        # No token is shorter than a byte; a few more, for what precedes the text in its first one.
        self._reach = max(len(text.encode()) for text in texts) + 8

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Any:
        """Ids (rows, so far) → bool (rows,), true where the answer is over."""
        answers = input_ids[:, self._length :][:, -self._reach :].tolist()
        tails = [str(self._tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]
        over = [any(text in tail for text in self._texts) for tail in tails]
        return torch.tensor(over, device=input_ids.device)
