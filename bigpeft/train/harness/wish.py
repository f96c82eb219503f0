"""How a task of the harness wishes its answers to be generated, and whether that can be done."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigpeft.errors import DataError
from bigpeft.train.generation import Sampling

_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_KNOWN = {"until", "do_sample", "temperature", "top_p", *_TOKENS}
_OF_SAMPLING = {"top_k", "min_p", "typical_p"}
_USUAL_TOKENS = 256


@dataclass(frozen=True)
class Wish:
    """`room` tokens are left for the prompt."""

    sampling: Sampling
    room: int


def wish_of(asked: Mapping[str, Any], task: str | None, limit: int, stop: tuple[int, ...]) -> Wish:
    """From a task's generation_kwargs, for a model of at most `limit` tokens.

    Raises DataError for what bigpeft does not do: to leave it out would give another figure.
    """
    wished = {key: value for key, value in asked.items() if value is not None}
    temperature = float(wished.get("temperature", 1.0 if wished.get("do_sample") else 0.0))
    if wished.get("do_sample") is False:
        temperature = 0.0
    if not temperature:
        wished = {key: value for key, value in wished.items() if key not in _OF_SAMPLING}
    if wished.get("num_beams") == 1:
        del wished["num_beams"]
    what = f"generation_kwargs of the task {task}"
    if unknown := wished.keys() - _KNOWN:
        raise DataError(
            what,
            f"wish for {', '.join(sorted(unknown))}, which bigpeft does not do",
            "copy the task to a folder of your own without that, and name it with --harness-tasks",
        )
    tokens = next((int(wished[key]) for key in _TOKENS if key in wished), _USUAL_TOKENS)
    if tokens >= limit:
        raise DataError(
            what,
            f"wish for answers of {tokens} tokens, and the model takes {limit} with the prompt",
            "raise --max-length where the model allows it, or ask for less in a task of your own",
        )
    until = wished.get("until", [])
    sampling = Sampling(
        max_new_tokens=tokens,
        temperature=temperature,
        top_p=float(wished.get("top_p", 1.0)) if temperature else 1.0,
        stop=stop,
        until=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
    )
    return Wish(sampling, limit - tokens)
