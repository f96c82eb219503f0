"""A dense checkpoint of 70B-shaped layers with random weights, written tensor by tensor."""

from pathlib import Path

import torch
from transformers import AutoConfig

from bigpeft.backbone import RandomWeights, build_skeleton
from bigpeft.backbone.copies.layouts import Dense
from bigpeft.backbone.copies.streamed import StreamedFolder

SHAPE = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 4096,
}


def make_model(folder: Path, layers: int) -> int:
    """Write it unless it is there; returns the bytes of its weight files."""
    if not folder.is_dir():
        config = AutoConfig.for_model("llama", num_hidden_layers=layers, **SHAPE)
        config.dtype = torch.bfloat16
        source, layout = RandomWeights(build_skeleton(config), 0.02, 0), Dense()
        bundles = [
            layout.bundle(None, name, torch.bfloat16, shape)
            for name, shape in source.shapes().items()
        ]
        with StreamedFolder(folder, bundles, 5_000_000_000, {"layers": layers}) as streamed:
            streamed.write(
                lambda bundle, piece: layout.tensors(None, source.read(bundle.name), bundle),
                2,
                lambda done, total: None,
            )
            config.save_pretrained(streamed.part)
            streamed.finish()
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
