"""LoRA as a GGUF file. Oracles: the gguf library that reads it, the names and the order of rows
that transformers takes when it reads the GGUF file of a base.
"""

import pytest
import torch
from gguf import GGUFReader
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError, RecipeError
from bigpeft.export import export_gguf
from tests.export.moved import moved, options_of

OVERRIDES = {"q_proj": {"rank": 2, "alpha": 7}, r".*\.1\..*": {"alpha": 3}}


def changes(file, model):
    """Layer of the model → the change that the file makes of its W, as llama.cpp computes it."""
    reader = GGUFReader(file)
    alpha = reader.get_field("adapter.lora.alpha").contents()
    tensors = {t.name: torch.from_numpy(t.data.copy()).double() for t in reader.tensors}
    kind = model.config.model_type.replace("mistral", "llama")
    processor = TENSOR_PROCESSORS.get(kind, TensorProcessor)(config=model.config.to_dict())
    found = {}
    for name, ours in get_gguf_hf_weights_map(model, processor, kind).items():
        a, b = (tensors.pop(f"{name}.lora_{factor}", None) for factor in "ab")
        if a is not None:
            change = (alpha / len(a) * b @ a).numpy()
            found[ours.removesuffix(".weight")] = torch.from_numpy(
                processor.process(change, name=name).weights
            )
    assert not tensors
    return found


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"]
)
def test_the_file_holds_the_change_of_every_layer(family, tmp_path):
    run = moved(tmp_path, {"name": "lora", "rank": 4, "alpha": 10}, family)

    export_gguf(run.open(), tmp_path / "lora.gguf")

    opened = run.open()
    found = changes(tmp_path / "lora.gguf", run.base)
    assert found.keys() == opened.seated.keys()
    for layer, method in opened.seated.items():
        torch.testing.assert_close(found[layer], method.delta(torch.float64), atol=1e-6, rtol=1e-6)


def test_gpt2_keeps_its_weights_the_other_way_round(tmp_path):
    run = moved(tmp_path, {"name": "lora", "rank": 4, "alpha": 10}, "gpt2")

    export_gguf(run.open(), tmp_path / "lora.gguf")

    opened = run.open()
    for layer, change in changes(tmp_path / "lora.gguf", run.base).items():
        delta = opened.seated[layer].delta(torch.float64).t()
        torch.testing.assert_close(change, delta, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["lora", "rslora", "pissa", "lora_xs", "adalora"])
def test_one_alpha_serves_layers_with_options_of_their_own(name, tmp_path):
    overrides = OVERRIDES if name in ("lora", "rslora") else {}
    run = moved(tmp_path, {"name": name, **options_of(name), "overrides": overrides})

    export_gguf(run.open(), tmp_path / "lora.gguf")

    found = changes(tmp_path / "lora.gguf", run.base)
    for layer, change in found.items():
        live, weight = run.model.get_submodule(layer), run.base.get_submodule(layer).weight
        merged = live.adapter.merge(live.linear.base.dense(torch.float64))
        torch.testing.assert_close(change, merged - weight.double(), atol=1e-6, rtol=1e-6)


def test_a_place_under_a_file_is_refused(tmp_path):
    run = moved(tmp_path / "run", {"name": "lora", "rank": 4})
    (tmp_path / "file").write_text("")

    with pytest.raises(FileError, match="cannot be written"):
        export_gguf(run.open(), tmp_path / "file" / "lora.gguf")


def test_the_file_says_what_it_is(tmp_path):
    run = moved(tmp_path, {"name": "lora", "rank": 4, "alpha": 10}, "mistral")

    words = ["export", str(run.folder), str(tmp_path / "x.gguf"), "--to", "gguf"]
    said = CliRunner().invoke(app, words)
    again = CliRunner().invoke(app, words)

    reader = GGUFReader(tmp_path / "x.gguf")
    facts = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
    assert {key: reader.get_field(key).contents() for key in facts} == facts
    assert reader.get_field("adapter.lora.alpha").contents() == 10
    assert "14 linears as a LoRA adapter of llama.cpp" in said.output
    assert isinstance(again.exception, FileError)


@pytest.mark.parametrize(
    ("family", "method", "reason"),
    [
        ("llama", {"name": "ssb"}, "ssb: is HIRA in HF peft, not LORA"),
        ("llama", {"name": "dora", "rank": 4}, r"dora: has lora_magnitude_vector at \S+q_proj"),
        ("llama", {"name": "lora", "train_modules": ["norm"]}, r"trained \S+norm.weight in full"),
        ("gpt_neox", {"name": "lora"}, "model: is a gpt_neox, GGUF is written for gemma"),
    ],
    ids=str,
)
def test_what_llama_cpp_cannot_take_is_refused(family, method, reason, tmp_path):
    run = moved(tmp_path, method, family)

    with pytest.raises(RecipeError, match=reason):
        export_gguf(run.open(), tmp_path / "x.gguf")

    assert not list(tmp_path.glob("x.gguf*"))
