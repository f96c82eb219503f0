"""Results that others can use: the adapter, the merged model, the adapter as LoRA."""

from bigpeft.export.adapter import read_adapter, save_adapter
from bigpeft.export.lora import Factored, export_lora
from bigpeft.export.merge import Merged, merge
from bigpeft.export.run import FinishedRun, open_run

__all__ = [
    "Factored",
    "FinishedRun",
    "Merged",
    "export_lora",
    "merge",
    "open_run",
    "read_adapter",
    "save_adapter",
]
