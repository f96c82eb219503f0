"""Names that HF peft gives to the factors of LoRA."""

import re

PREFIX = "base_model.model."
"""What peft puts before the model's own names."""


def factor_of(name: str) -> tuple[str, str] | None:
    """Layer, and lora_A or lora_B, of a tensor in a file of peft; None for another name."""
    parts = re.fullmatch(rf"{re.escape(PREFIX)}(.+)\.(lora_[AB])\.weight", name)
    return (parts[1], parts[2]) if parts else None


def as_in_files(name: str) -> str:
    """A name of peft's living model, without the adapter's own name, which files leave out."""
    return re.sub(r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight", name)
