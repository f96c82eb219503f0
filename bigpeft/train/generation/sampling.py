"""How the next token is chosen."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from bigpeft.world import stable_seed


@dataclass(frozen=True)
class Sampling:
    """Greedy at temperature 0. `top_p` keeps the likeliest tokens that together have this share.

    `stop` are token ids that end an answer; at most `max_new_tokens` are generated.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[int, ...] = ()


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
