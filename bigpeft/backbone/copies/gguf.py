"""GGUF files of llama.cpp, dequantised once into an ordinary model folder.

What the file says of the tokenizer is not all that the original one did: where it matters, a recipe
names the original as `model.tokenizer`.
"""

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedTokenizerFast,
)

from bigpeft.backbone.copies.once import made_once
from bigpeft.errors import FileError

DIGITS_SAMPLE = "In 2024,  7 of 1356 rooms had 24C7."
_KEPT = {0: torch.float32, 1: torch.float16}  # general.file_type → dtype; others are quantised


def converted(gguf: Path, cache: Path, say: Callable[[str], None]) -> Path:
    """The model folder made from this file, in `cache`; made by the first that asks."""
    stat = gguf.stat()
    told = f"{gguf.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    place = cache / f"{gguf.stem}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def make() -> None:
        say(f"dequantising {gguf.name} once into {place}")
        part = place.with_name(place.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        convert(gguf, part)
        os.replace(part, place)

    return made_once(place, make, say)


def convert(gguf: Path, out: Path, *, split_digits: bool = False) -> None:
    """Write the model in `gguf` to `out` as safetensors with its tokenizer.

    Numbers are kept as they are where the file holds fp32 or fp16, and are bf16 where it is
    quantised. transformers holds the model whole in fp32 meanwhile. Raises FileError for a file
    that it cannot read.
    """
    dtype = _dtype(gguf)
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            raw = AutoTokenizer.from_pretrained(**source)
            loaded = AutoModelForCausalLM.from_pretrained(
                **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
        except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
            why = f"cannot be read by transformers ({type(error).__name__}: {error})"
            fix = (
                "use a GGUF file of an architecture that it knows, or the safetensors of the model"
            )
            raise FileError(str(gguf), why=why, fix=fix) from error
        # A fresh model, because the loaded one still says that it is quantised.
        settings = loaded.config.to_dict()
        for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
            settings.pop(key, None)
        config = AutoConfig.for_model(**settings)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        model.save_pretrained(out)
        tokenizer = rebuild_tokenizer(raw, split_digits)
        tokenizer.model_max_length = config.max_position_embeddings
        tokenizer.save_pretrained(out, save_jinja_files=False)  # the template inside the JSON
    # safetensors makes a file that only its owner reads; give it the mode of the others.
    shutil.copymode(out / "config.json", out / "model.safetensors")


def rebuild_tokenizer(raw: PreTrainedTokenizerFast, split_digits: bool) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file with the pre-tokenizer of the original model put back."""
    backend = raw.backend_tokenizer
    if split_digits:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
        tokens = backend.encode(DIGITS_SAMPLE, add_special_tokens=False).tokens
        if [c for c in tokens if c.isdigit()] != [c for c in DIGITS_SAMPLE if c.isdigit()]:
            raise FileError("tokenizer", why="does not split digits", fix="report this as a bug")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=raw.chat_template,
        clean_up_tokenization_spaces=False,
        **raw.special_tokens_map,
    )


def _dtype(gguf: Path) -> torch.dtype:
    """What keeps the file's numbers."""
    from gguf import GGUFReader

    try:
        field = GGUFReader(gguf).get_field("general.file_type")
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise FileError(
            str(gguf), f"is no GGUF file ({error})", "download or copy it again"
        ) from error
    return _KEPT.get(int(field.contents()) if field else -1, torch.bfloat16)
