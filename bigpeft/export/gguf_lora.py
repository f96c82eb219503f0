"""The adapter as LoRA for llama.cpp: one GGUF file, fp32, over a base that llama.cpp has converted.

    general.type = adapter, adapter.type = lora      factor before B A: adapter.lora.alpha / rank
    blk.N.attn_q.weight.lora_a (rank, in)            blk.N.attn_q.weight.lora_b (out, rank)

One alpha serves all layers; where their factors differ, B takes the rest. In files of the llama
architecture the rows of q and k are in llama.cpp's order, and so are those of B.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from gguf import MODEL_ARCH
from torch import Tensor

from bigpeft.backbone.copies.writer import refuse_existing, unwritable
from bigpeft.errors import RecipeError
from bigpeft.export.forms import forms_of
from bigpeft.export.run import FinishedRun
from bigpeft.methods import PeftForm
from bigpeft.methods.peft_form import lora_scaling

_ARCHITECTURES = {
    "gemma": MODEL_ARCH.GEMMA,
    "gemma2": MODEL_ARCH.GEMMA2,
    "gemma3_text": MODEL_ARCH.GEMMA3,
    "gpt2": MODEL_ARCH.GPT2,
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "phi3": MODEL_ARCH.PHI3,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
"""model_type → what llama.cpp calls it, of those whose linears it keeps as they are, but for q and
k of the llama architecture.
"""
_FACTORS = {"lora_A.weight", "lora_B.weight"}
_FIX = "write the whole model with bigpeft merge, and convert that with llama.cpp"


@dataclass(frozen=True)
class GgufLora:
    """What was written."""

    file: Path
    linears: int


def export_gguf(run: FinishedRun, out: Path) -> GgufLora:
    """Write the file, whole or not at all.

    Raises RecipeError for a method that is no LoRA, modules trained in full and models whose GGUF
    files keep weights in an order of their own; FileError for a place that cannot be written.
    """
    refuse_existing(out)
    config = run.model.config
    architecture = _ARCHITECTURES.get(config.model_type)
    if architecture is None:
        known = ", ".join(_ARCHITECTURES)
        raise RecipeError("model", f"is a {config.model_type}, GGUF is written for {known}", _FIX)
    if run.dense:
        first = next(iter(run.dense))
        raise RecipeError("method.train_modules", f"trained {first} in full, no LoRA has it", _FIX)
    forms = forms_of(run, "LORA").seats
    for name, form in forms.items():
        if form.tensors.keys() != _FACTORS:
            more = ", ".join(sorted(form.tensors.keys() - _FACTORS))
            raise RecipeError(
                f"method.name: {run.recipe.method.name}",
                f"has {more} at {name}, which LoRA in GGUF has not",
                _FIX,
            )
    alpha = _alpha(next(iter(forms.values())))
    part = out.with_name(out.name + ".part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _write(part, architecture, alpha, _tensors(config, architecture, alpha, forms))
        os.replace(part, out)
    except OSError as error:
        raise unwritable(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return GgufLora(out, len(forms))


def _alpha(form: PeftForm) -> float:
    """What llama.cpp divides by the rank."""
    return lora_scaling(form) * form.layer["r"]


def _tensors(
    config: Any, architecture: MODEL_ARCH, alpha: float, forms: Mapping[str, PeftForm]
) -> dict[str, Tensor]:
    """The factors by llama.cpp's names."""
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    found = {}
    for layer, form in forms.items():
        name = names.get_name(layer)
        if name is None:
            raise RecipeError("model", f"has a layer {layer} that llama.cpp has no name for", _FIX)
        a, b = form.tensors["lora_A.weight"], form.tensors["lora_B.weight"].double()
        b = b * (_alpha(form) / alpha)
        heads = _heads(config, layer) if architecture == MODEL_ARCH.LLAMA else None
        found[f"{name}.weight.lora_a"] = a
        found[f"{name}.weight.lora_b"] = b if heads is None else reordered(b, heads)
    return found


def _heads(config: Any, layer: str) -> int | None:
    """Heads of a layer whose rows llama.cpp orders by them."""
    heads = config.num_attention_heads
    own = {"q_proj": heads, "k_proj": config.num_key_value_heads or heads}
    return own.get(layer.rpartition(".")[2])


def reordered(rows: Tensor, heads: int) -> Tensor:
    """Rows (out_features, n) of q or k as llama.cpp keeps them: in each head the halves of the
    rotation interleaved.
    """
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _write(
    path: Path, architecture: MODEL_ARCH, alpha: float, tensors: Mapping[str, Tensor]
) -> None:
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.detach().float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
