"""Tiny random models of the families that transformers builds, as folders of files."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
FAMILIES = {
    "llama": GROUPED,
    "llama-tied": {**GROUPED, "tie_word_embeddings": True},
    "mistral": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 12},
    "gemma": {**GROUPED, "head_dim": 12},
    "gemma2": {**GROUPED, "head_dim": 12},
    "phi": {**SMALL, "partial_rotary_factor": 0.5},
    "phi3": GROUPED,
    "gpt2": {
        "vocab_size": 96, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "bos_token_id": 1, "eos_token_id": 2,
    },
    "gpt_neox": SMALL,
    "opt": {**SMALL, "ffn_dim": 80, "word_embed_proj_dim": 48},
}  # fmt: skip


def saved_model(
    family: str, folder: Path, max_shard_size: str = "5GB", **more: object
) -> PreTrainedModel:
    """A stock model with random weights, every one of them moved off its start, saved there."""
    torch.manual_seed(0)
    values = {**FAMILIES[family], **more}
    config = AutoConfig.for_model(family.partition("-")[0], **values)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model.eval()
