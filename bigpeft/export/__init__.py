"""Results that others can use: the adapter as safetensors and JSON."""

from bigpeft.export.adapter import read_adapter, save_adapter

__all__ = ["read_adapter", "save_adapter"]
