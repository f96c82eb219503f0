"""The tokenizer of a model: from its folder, the hub, or a bare SentencePiece model."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigpeft.data.hub import hub_is_reachable, is_hub_name
from bigpeft.errors import FileError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "  Hello world,  it is\n42 × naïve."
_SELF_DESCRIBING = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt")


def load_tokenizer(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer in the folder `name` or of the hub model of that name.

    Padding uses EOS where the tokenizer has no pad token of its own: no token is added. Raises
    FileError when there is none, or it cannot be read.
    """
    place = Path(name).expanduser()
    if not place.is_dir() and not is_hub_name(name) and ("/" in name or place.exists()):
        raise FileError(
            name, "is no folder with a tokenizer", "check model.tokenizer, or model.name"
        )
    reachable = place.is_dir() or hub_is_reachable()
    try:
        with _quiet():
            if _is_bare(place):
                tokenizer = _sentencepiece(place / "tokenizer.model")
            else:
                tokenizer = _auto(
                    str(place) if place.is_dir() else name,
                    revision,
                    trust_remote_code,
                    place.is_dir() or not reachable,
                )
    except FileError:
        raise
    except Exception as error:  # each tokenizer class fails in its own way
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        offline = "" if reachable else "; the hub cannot be reached"
        raise FileError(
            name,
            f"has no tokenizer that can be read ({reason}{offline})",
            "name a folder or hub model with tokenizer.json in model.tokenizer",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def serialised(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Everything about a tokenizer that changes its tokens, as text for a fingerprint."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend: Any = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    rules = sorted(tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return json.dumps([type(tokenizer).__name__, special, tokenizer.chat_template, rules])


def _auto(
    name: str, revision: str | None, trust_remote_code: bool, local: bool
) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        name,
        revision=revision or "main",
        trust_remote_code=trust_remote_code,
        local_files_only=local,
    )


def _is_bare(folder: Path) -> bool:
    return (folder / "tokenizer.model").is_file() and not any(
        (folder / file).is_file() for file in _SELF_DESCRIBING
    )


def _sentencepiece(path: Path) -> "PreTrainedTokenizerBase":
    """From the .model file alone. Raises FileError where transformers would read it otherwise.

    Without a tokenizer_config.json AutoTokenizer takes a class that leaves out the leading space,
    so its tokens differ from SentencePiece's: hence Llama's class, and the comparison. Llama's
    class adds no space before a text that starts with one; SentencePiece adds it to any text.
    """
    from sentencepiece import SentencePieceProcessor
    from tokenizers import normalizers
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer.from_pretrained(str(path.parent))
    backend: Any = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.pre_tokenizer = None
    expected = SentencePieceProcessor(model_file=str(path)).encode(_PROBE)
    if tokenizer(_PROBE, add_special_tokens=False)["input_ids"] != expected:
        raise FileError(
            str(path),
            "is a SentencePiece model that transformers reads differently from SentencePiece",
            "put the model's tokenizer.json or tokenizer_config.json beside it",
        )
    return tokenizer


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
