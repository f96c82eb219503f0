"""A run as LoRA of HF peft. Oracles: the merged model, and HF peft that opens the adapter."""

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError, RecipeError
from bigpeft.export import export_lora, merge, open_run
from bigpeft.export.lora import factors
from tests.export.test_merge import exported

TOKENS = torch.arange(48).reshape(2, 24)


@torch.no_grad()
def logits(model):
    return model.eval()(TOKENS).logits


@pytest.mark.parametrize(("method", "rank"), [("lora", 4), ("pissa", 8)])
def test_peft_answers_as_the_merged_model(method, rank, tmp_path):
    folder = exported(tmp_path / "run", f"method={{name: {method}, rank: 4}}")
    merge(open_run(folder), tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")

    found = export_lora(open_run(folder), tmp_path / "lora", rank)

    source = open_run(folder).open_weights()
    base = AutoModelForCausalLM.from_config(merged.config)
    base.load_state_dict({name: source.read(name) for name in source.shapes()}, strict=False)
    base.tie_weights()
    before = logits(base)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "lora")
    assert max(found.errors.values()) < 1e-6
    assert not torch.allclose(before, logits(merged), atol=1e-3)
    assert torch.allclose(logits(adapted), logits(merged), atol=1e-5)


def test_the_error_is_that_of_the_best_factors_of_this_rank():
    delta = torch.randn(20, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(delta)

    a, b, error = factors(delta, 5)

    assert error == pytest.approx((values[5:].norm() / values.norm()).item(), rel=1e-9)
    assert (delta - b.double() @ a.double()).norm() / delta.norm() == pytest.approx(error, rel=1e-6)


def test_a_rank_above_the_sides_and_a_change_of_zero_are_exact():
    delta = torch.randn(6, 4, dtype=torch.float64)

    a, b, error = factors(delta, 9)

    assert a.shape == (9, 4)
    assert b.shape == (6, 9)
    assert error < 1e-12
    assert factors(torch.zeros_like(delta), 2)[2] == 0


def test_the_command_states_the_error_per_layer_and_refuses_a_folder_that_is_there(tmp_path):
    folder = exported(tmp_path / "run", "method.name=ssb")
    words = ["export", str(folder), str(tmp_path / "out"), "--to", "lora", "--rank", "2"]

    said = CliRunner().invoke(app, words)
    again = CliRunner().invoke(app, words)

    assert said.exit_code == 0
    assert "model.layers.1.mlp.down_proj  " in said.output
    assert isinstance(again.exception, FileError)


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("{name: bitfit}", "what no weight can hold"),
        ("{name: lora, train_modules: [norm]}", "trained .* in full"),
    ],
)
def test_what_lora_cannot_hold_is_refused(method, reason, tmp_path):
    folder = exported(tmp_path / "run", f"method={method}")

    with pytest.raises(RecipeError, match=reason):
        export_lora(open_run(folder), tmp_path / "out", 4)

    assert [p.name for p in tmp_path.iterdir()] == ["run"]
