"""Results that others can use: the adapter as safetensors and JSON, the merged model."""

from bigpeft.export.adapter import read_adapter, save_adapter
from bigpeft.export.merge import Merged, merge
from bigpeft.export.run import FinishedRun, open_run

__all__ = ["FinishedRun", "Merged", "merge", "open_run", "read_adapter", "save_adapter"]
