"""Prompts → answers over all ranks, by transformers' own `generate`.

Each rank answers its share of the prompts. ZeRO-3 gathers in every pass, so all ranks make as many:
one that has nothing left to say goes on until the others have finished, as `synced_gpus` does.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from bigpeft.checkpoint.engine import Engine
from bigpeft.data import Prompt
from bigpeft.train.generation.sampling import Draw, Sampling, Until


class Generator:
    """A model that answers. `by_rows`: one prompt at a time, and no cache of keys and values.

    That is for methods with virtual tokens, which stand between the cache or the padding and the
    tokens, and would be counted twice.
    """

    def __init__(
        self, engine: Engine, tokenizer: PreTrainedTokenizerBase, by_rows: bool = False
    ) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        self._by_rows = by_rows

    @property
    def pad_id(self) -> int:
        """What fills the shorter rows of a batch; masks say where it is."""
        pad_id: Any = self.tokenizer.pad_token_id
        return pad_id if isinstance(pad_id, int) else 0

    def texts(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        micro_size: int,
        streamer: Any = None,
    ) -> list[str]:
        """The answer to each prompt, without special tokens; the same list on all ranks."""
        answers = self.tokens(prompts, sampling, micro_size, streamer)
        texts = (str(self.tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers)
        return [sampling.ended(text) for text in texts]

    def tokens(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        micro_size: int,
        streamer: Any = None,
    ) -> list[list[int]]:
        """Token ids of each answer, the stop token apart, and up to a few behind a text that ends
        it; the same on all ranks.

        `micro_size` prompts per rank are answered at once, those of about one length together.
        The streamer is given the first rank's tokens as they come. Leaves the model in the mode
        that it had.
        """
        size, rank = dist.get_world_size(), dist.get_rank()
        micro_size = 1 if self._by_rows or streamer is not None else micro_size
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids))
        mine: dict[int, list[int]] = {}
        training = self.engine.module.training
        self.engine.module.eval()
        for start in range(0, len(order), micro_size * size):
            first = start + rank * micro_size
            numbers = order[first : first + micro_size]
            mine |= self._answers(prompts, numbers, sampling, streamer if rank == 0 else None)
        self.engine.module.train(training)
        everyone: list[dict[int, list[int]]] = [{}] * size
        dist.all_gather_object(everyone, mine)
        found = {number: ids for one in everyone for number, ids in one.items()}
        return [found[number] for number in range(len(prompts))]

    def _answers(
        self, prompts: Sequence[Prompt], numbers: list[int], sampling: Sampling, streamer: Any
    ) -> dict[int, list[int]]:
        """No numbers make the passes of the other ranks all the same."""
        asked = [prompts[number].ids for number in numbers] or [(self.pad_id,)]
        ids, mask = self._padded(asked)
        model: Any = self.engine.module
        with torch.no_grad():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=sampling.max_new_tokens if numbers else 1,
                use_cache=not self._by_rows,
                eos_token_id=list(sampling.stop) or None,
                pad_token_id=self.pad_id,
                logits_processor=_processors(sampling, numbers or [0], ids.shape[1]),
                stopping_criteria=self._criteria(sampling, ids.shape[1]),
                synced_gpus=dist.get_world_size() > 1,
                streamer=streamer,
            )
        new = output[:, ids.shape[1] :].tolist()
        return {
            number: _until_stop(row, sampling.stop)
            for number, row in zip(numbers, new, strict=False)
        }

    def _criteria(self, sampling: Sampling, length: int) -> StoppingCriteriaList:
        if not sampling.until:
            return StoppingCriteriaList()
        return StoppingCriteriaList([Until(sampling.until, self.tokenizer, length)])

    def _padded(self, asked: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask, int64 (rows, longest), padded on the left: answers begin side by side."""
        longest = max(map(len, asked))
        ids = torch.full((len(asked), longest), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(asked):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        return ids.to(self.engine.device), mask.to(self.engine.device)


def _processors(sampling: Sampling, numbers: list[int], length: int) -> LogitsProcessorList:
    if not sampling.temperature:
        return LogitsProcessorList()
    found = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_p < 1.0:
        found.append(TopPLogitsWarper(sampling.top_p))
    found.append(Draw(sampling.seed, numbers, length))
    return found


def _until_stop(ids: list[int], stop: tuple[int, ...]) -> list[int]:
    ends = (place for place, token in enumerate(ids) if token in stop)
    return ids[: next(ends, len(ids))]
