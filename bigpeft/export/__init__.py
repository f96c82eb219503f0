"""Results that others can use: the adapter, the merged model, the adapter as LoRA."""

from bigpeft.export.adapter import read_adapter, save_adapter
from bigpeft.export.gguf_lora import GgufLora, export_gguf
from bigpeft.export.hf_peft import Exported, export_hf_peft
from bigpeft.export.import_peft import Imported, import_peft, method_yaml
from bigpeft.export.lora import Factored, export_lora
from bigpeft.export.merge import Merged, Written, merge
from bigpeft.export.run import FinishedRun, open_run

__all__ = [
    "Exported",
    "Factored",
    "FinishedRun",
    "GgufLora",
    "Imported",
    "Merged",
    "Written",
    "export_gguf",
    "export_hf_peft",
    "export_lora",
    "import_peft",
    "merge",
    "method_yaml",
    "open_run",
    "read_adapter",
    "save_adapter",
]
