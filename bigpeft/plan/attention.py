"""Which implementation of attention a run uses, and whether this machine has it."""

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.utils.import_utils import is_flash_attn_2_available

from bigpeft.errors import RecipeError

FLASH = "flash_attention_2"


def choose_attention(
    wanted: str, packing: bool, config: PretrainedConfig, dtype: torch.dtype
) -> str | None:
    """transformers' name of it; None leaves the choice to transformers.

    `auto` takes flash attention for packed rows where there is one, since it computes nothing
    between rows. Raises RecipeError for one that this machine or the model has not.
    """
    if wanted == "auto":
        return FLASH if packing and _why_no_flash(config, dtype) is None else None
    why = _why_no_flash(config, dtype) if wanted == FLASH else None
    if why is None and wanted == "sdpa" and not _has(config, "_supports_sdpa"):
        why = f"{config.model_type} has none"
    if why is not None:
        raise RecipeError("model.attention", f"{wanted} cannot be used: {why}", "write auto")
    return wanted


def _why_no_flash(config: PretrainedConfig, dtype: torch.dtype) -> str | None:
    if not is_flash_attn_2_available():
        return "the package flash-attn, or an accelerator for it, is missing"
    if dtype == torch.float32:
        return "it computes in 16 bits, and train.precision is fp32"
    return None if _has(config, "_supports_flash_attn") else f"{config.model_type} has none"


def _has(config: PretrainedConfig, capability: str) -> bool:
    kind = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return kind is None or bool(getattr(kind, capability, False))
