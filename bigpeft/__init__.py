"""bigpeft: every PEFT method over a 4-bit backbone sharded by DeepSpeed ZeRO-3."""

__version__ = "0.1.0"
