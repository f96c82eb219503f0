"""The adapter over its packed backbone as a model that lm-evaluation-harness can ask.

Every rank is asked everything and told everything; which rank does what is settled below, where
rows are dealt. For the harness there is one process.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from bigpeft.checkpoint.engine import Engine
from bigpeft.data import Prompt, Tokens
from bigpeft.errors import DataError
from bigpeft.train.evaluation.score import score
from bigpeft.train.generation import Generator
from bigpeft.train.harness.wish import Wish, wish_of
from bigpeft.world import World

Pair = tuple[tuple[str, str] | None, list[int], list[int]]
"""A context and its continuation: both as text where they are known, and as token ids."""


class Answering(TemplateLM):
    """Tokenises as the harness's own Hugging Face model does, so figures compare with its.

    Of more than `limit` tokens only the last ones are shown. `template` is that of the recipe, None
    the tokenizer's own; `stop` are token ids that end an answer.
    """

    def __init__(
        self,
        generator: Generator,
        world: World,
        micro_size: int,
        limit: int,
        stop: tuple[int, ...],
        template: str | None = None,
    ) -> None:
        super().__init__()
        self._generator, self._world, self._micro_size = generator, world, micro_size
        self._limit, self._stop, self._template = limit, stop, template

    @property
    def engine(self) -> Engine:
        """The model itself."""
        return self._generator.engine

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self._generator.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text, where the tokenizer has one."""
        return self._generator.pad_id if (eos := _id(self._tokenizer.eos_token_id)) is None else eos

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text whose first token is to be judged."""
        bos = _id(self._tokenizer.bos_token_id)
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """For the harness's own caches, which bigpeft does not use."""
        return str(self._tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; unless told, with the tokenizer's opening ones if the text has none yet."""
        if add_special_tokens is None:
            opening = str(self._tokenizer.decode(self.prefix_token_id))
            add_special_tokens = not string.startswith(opening)
        return self._tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as text, the beginning of an answer included unless one has begun.

        Raises DataError where the template fails.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                chat_history,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except Exception as error:  # a template runs as code: it may raise anything
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise DataError(
                "--chat", f"does not go through the chat template ({reason})", "leave --chat out"
            ) from error
        return str(text)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log p of each whole text, in windows that do not overlap."""
        pairs: list[Pair] = []
        counts: list[int] = []
        for request in requests:
            windows = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self._shown, 1
            )
            own: list[Pair] = [(None, *make_disjoint_window(window)) for window in windows]
            pairs += own
            counts.append(len(own))
        found = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(found)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """An answer to each context, as its task wishes. Raises DataError for a wish that cannot
        be fulfilled.
        """
        texts: list[str] = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            arguments: Any = request.args
            groups.setdefault(json.dumps(arguments[1], sort_keys=True), []).append(number)
        for numbers in groups.values():
            request = requests[numbers[0]]
            arguments: Any = request.args
            wish = wish_of(arguments[1], request.task_name, self._limit, self._stop)
            prompts = [self._prompt(requests[number].args[0], wish) for number in numbers]
            answers = self._generator.texts(prompts, wish.sampling, self._micro_size)
            for number, answer in zip(numbers, answers, strict=True):
                texts[number] = answer
        return texts

    @property
    def _shown(self) -> int:
        """Tokens that are looked at; the one behind them is judged, and goes through the model."""
        return self._limit - 1

    def _prompt(self, text: str, wish: Wish) -> Prompt:
        ids = self.tok_encode(text)[-wish.room :] or [self.prefix_token_id]
        return Prompt(tuple(ids), text)

    def _loglikelihood_tokens(self, requests: Sequence[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Log p of each continuation, and whether it is what would be said greedily.

        Rows of about one length share a pass.
        """
        order = sorted(range(len(requests)), key=lambda number: -len(self._whole(requests[number])))
        rows = [self._row(requests[number]) for number in order]
        numbers = score(
            self.engine,
            Tokens.of(rows),
            None,
            self._micro_size,
            self._generator.pad_id,
            self._world,
        ).tolist()
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        for number, (loss, targets, hits, _) in zip(order, numbers, strict=True):
            found[number] = (-loss, hits == targets)
        return found

    def _whole(self, pair: Pair) -> list[int]:
        _, context, continuation = pair
        return (context + continuation)[-self._limit :]

    def _row(self, pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int32 (n,) and targets bool (n,) of the continuation, the first token being none."""
        whole = self._whole(pair)
        targets = torch.arange(len(whole)) >= max(1, len(whole) - len(pair[2]))
        return torch.tensor(whole, dtype=torch.int32), targets


def _id(found: Any) -> int | None:
    return found if isinstance(found, int) else None
