"""A small GGUF file, as llama.cpp writes it."""

import json
from pathlib import Path

import numpy as np

TOKENIZER = Path(__file__).parents[2] / "recipes/data/debug/tokenizer"


def llama_gguf(path: Path) -> dict[str, np.ndarray]:
    """Write a one-layer llama as GGUF, as llama.cpp does, and return its q and k projections."""
    import gguf

    vocab = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(vocab["vocab"], key=vocab["vocab"].get)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in vocab["merges"]]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "context_length": 64,
        "embedding_length": 32,
        "block_count": 1,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "rope.dimension_count": 8,
        "vocab_size": len(tokens),
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|im_end|>"))
    writer.add_chat_template("{{ messages[0]['content'] }}")
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,)}
    block = {"attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32)}
    block |= {"attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (48, 32)}
    block |= {"ffn_up": (48, 32), "ffn_down": (32, 48)}
    shapes |= {f"blk.0.{name}": shape for name, shape in block.items()}
    kept = {}
    for name, shape in shapes.items():
        weight = rng.integers(-64, 64, shape).astype(np.float32) / 64  # exact in bfloat16
        if name in ("blk.0.attn_q", "blk.0.attn_k"):
            kept[name[-1] + "_proj"] = weight
            heads = shape[0] // 8
            weight = weight.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(shape)
        writer.add_tensor(f"{name}.weight", np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept
