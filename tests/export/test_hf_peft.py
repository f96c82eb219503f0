"""Runs as adapters of HF peft. Oracle: HF peft itself, beside the model that bigpeft has."""

import json
from pathlib import Path

import peft
import pytest
import torch
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError, RecipeError
from bigpeft.export import export_hf_peft, export_lora
from bigpeft.methods import methods
from tests.export.moved import logits, moved, options_of

IDS = torch.arange(3, 27).reshape(2, 12)
EQUAL = {name: m for name, m in methods().items() if m.hf_peft != "none"}
REFUSED = sorted(set(methods()) - set(EQUAL))
SWITCHES = [
    {"name": "pissa", "rank": 4, "keep_base": True},
    {"name": "milora", "rank": 4, "keep_base": False},
    {"name": "lokr", "rank": 30, "alpha": 10, "factor": 4},
    {"name": "prefix_tuning", "length": 5, "projection": True, "encoder_hidden_size": 6},
    {"name": "p_tuning", "length": 5, "encoder": "lstm", "encoder_hidden_size": 6},
    {"name": "boft", "block_size": 8, "factors": 1},
]
CONFIGS = [{"name": name, **options_of(name)} for name in EQUAL] + SWITCHES


@pytest.fixture
def _butterflies(monkeypatch):
    """HF peft multiplies several factors of BOFT with a CUDA extension alone; blocks are blocks."""
    layer = "peft.tuners.boft.layer"
    monkeypatch.setattr(f"{layer}.get_fbd_cuda", lambda: True)

    def block_diagonals(blocks):
        return torch.stack([torch.block_diag(*factor) for factor in blocks])

    monkeypatch.setattr(f"{layer}.FastBlockDiag.apply", block_diagonals)


def agree(run, out) -> dict:
    """PeftModel answers as bigpeft does, and not as the base does. Returns peft's configuration."""
    before, ours = logits(run.base, IDS), logits(run.model, IDS)
    assert (before - ours).abs().max() > 1e-3

    theirs = logits(peft.PeftModel.from_pretrained(run.base, out), IDS)

    assert (theirs - ours).abs().max() < 1e-5 * max(1.0, ours.abs().max().item())
    return json.loads((out / "adapter_config.json").read_text())


@pytest.mark.usefixtures("_butterflies")
@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias")
@pytest.mark.parametrize("method", CONFIGS, ids=lambda m: "-".join(map(str, m.values())))
def test_peft_answers_as_bigpeft_does(method, tmp_path):
    run = moved(tmp_path, method)

    found = export_hf_peft(run.open(), tmp_path / "out")

    config = agree(run, tmp_path / "out")
    assert config["peft_type"] == found.kind == EQUAL[method["name"]].hf_peft.split()[0].strip(",;")
    assert found.seats == len(run.open().seated)


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_without_an_equivalent_is_refused_with_the_reason_and_the_way_out(name, tmp_path):
    run = moved(tmp_path, {"name": name, **options_of(name)})

    with pytest.raises(RecipeError, match=rf"method.name: {name}: has no equivalent .* at \S+ it"):
        export_hf_peft(run.open(), tmp_path / "out")

    assert not (tmp_path / "out").exists()


CONV1D = ["lora", "dora", "pissa", "ia3", "ssb", "bitfit", "vera", "fourierft", "prefix_tuning"]


@pytest.mark.parametrize("name", CONV1D)
def test_gpt2_keeps_its_weights_the_other_way_round(name, tmp_path):
    run = moved(tmp_path, {"name": name, **options_of(name)}, "gpt2")

    export_hf_peft(run.open(), tmp_path / "out")

    config = agree(run, tmp_path / "out")
    assert config.get("fan_in_fan_out", False) == (name != "prefix_tuning")


def test_the_nearest_lora_of_gpt2_is_told_so_too(tmp_path):
    run = moved(tmp_path, {"name": "lora", "rank": 4}, "gpt2")

    export_lora(run.open(), tmp_path / "out", 4)

    assert agree(run, tmp_path / "out")["fan_in_fan_out"]


def test_what_peft_does_not_seat_on_conv1d_is_refused(tmp_path):
    run = moved(tmp_path, {"name": "oft", "block_size": 8}, "gpt2")

    with pytest.raises(RecipeError, match="OFT does not sit on Conv1D layers"):
        export_hf_peft(run.open(), tmp_path / "out")


@pytest.mark.parametrize("ends", [["k_proj", "v_proj"], ["down_proj"]])
def test_ia3_spares_the_biases_that_peft_would_scale(ends, tmp_path):
    method = {"name": "ia3", "target_modules": ends}
    run = moved(tmp_path, method, "qwen2")  # it has biases at q, k and v

    export_hf_peft(run.open(), tmp_path / "out")

    kind = agree(run, tmp_path / "out")["peft_type"]
    assert kind == ("IA3" if ends == ["down_proj"] else "HIRA")


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_virtual_tokens_of_a_model_that_scales_its_embeddings(name, tmp_path):
    run = moved(tmp_path, {"name": name, "length": 5}, "gemma")

    export_hf_peft(run.open(), tmp_path / "out")

    agree(run, tmp_path / "out")


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "loha", "lokr", "liera", "vera"])
def test_layers_may_have_options_of_their_own(name, tmp_path):
    alpha = {} if name == "vera" else {"alpha": 3}
    overrides = {"q_proj": {"rank": 2, **alpha}, r".*\.1\.mlp\.up_proj": {"rank": 7}}
    run = moved(tmp_path, {"name": name, "rank": 4, "overrides": overrides})

    export_hf_peft(run.open(), tmp_path / "out")

    config = agree(run, tmp_path / "out")
    if name not in ("vera", "liera"):
        assert config["rank_pattern"]["model.layers.1.mlp.up_proj"] == 7
        assert config["r"] == 4


def test_layers_may_have_frequencies_of_their_own(tmp_path):
    method = {"name": "fourierft", "frequencies": 9, "overrides": {"v_proj": {"frequencies": 30}}}
    run = moved(tmp_path, method)

    export_hf_peft(run.open(), tmp_path / "out")

    assert len(agree(run, tmp_path / "out")["n_frequency_pattern"]) == 2


def test_options_of_which_peft_has_one_for_all_are_refused_where_layers_differ(tmp_path):
    overrides = {"v_proj": {"block_size": 4}}
    run = moved(tmp_path, {"name": "oft", "block_size": 8, "overrides": overrides})

    with pytest.raises(RecipeError, match=r"oft_block_size is 8 at \S+q_proj and 4 at \S+v_proj"):
        export_hf_peft(run.open(), tmp_path / "out")


@pytest.mark.parametrize(("overrides", "written"), [({}, 0.25), ({"q_proj": {"dropout": 0.5}}, 0)])
def test_dropout_is_written_where_all_layers_have_the_same(overrides, written, tmp_path):
    method = {"name": "lora", "rank": 4, "dropout": 0.25, "overrides": overrides}
    run = moved(tmp_path, method)

    export_hf_peft(run.open(), tmp_path / "out")

    assert agree(run, tmp_path / "out").get("lora_dropout", 0) == written


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("family", "module"), [("llama", "norm"), ("llama", "lm_head"), ("llama-tied", "embed_tokens")]
)
@pytest.mark.parametrize("name", ["lora", "ssb"])
def test_modules_that_were_trained_in_full_go_along(name, family, module, tmp_path):
    method = {"name": name, "train_modules": [module], **options_of(name)}
    run = moved(tmp_path, method, family)
    kept = run.open().dense

    export_hf_peft(run.open(), tmp_path / "out")

    saved = agree(run, tmp_path / "out")["modules_to_save"]
    assert {name.rpartition(".")[0] for name in kept} <= set(saved)


def test_modules_beside_virtual_tokens_are_refused(tmp_path):
    run = moved(tmp_path, {"name": "prompt_tuning", "length": 5, "train_modules": ["norm"]})

    with pytest.raises(RecipeError, match=r"train_modules: norm: trained \S+ in full"):
        export_hf_peft(run.open(), tmp_path / "out")


def test_rows_of_zeros_which_peft_makes_nan_are_refused(tmp_path):
    run = moved(tmp_path, {"name": "dora", "rank": 4})
    opened = run.open()
    next(iter(opened.seated.values())).row_squares[3] = 0

    with pytest.raises(RecipeError, match="sits on rows of zeros"):
        export_hf_peft(opened, tmp_path / "out")


def test_the_command_says_what_it_wrote_and_over_which_base(tmp_path):
    run = moved(tmp_path, {"name": "ssl"}, "llama", "model.weights=nf4")
    words = ["export", str(run.folder), str(tmp_path / "out"), "--to", "hf-peft"]

    said = CliRunner().invoke(app, words)
    again = CliRunner().invoke(app, words)

    assert said.exit_code == 0
    assert "14 seats as IA3" in said.output
    assert "trained over the nf4 image" in said.output
    assert isinstance(again.exception, FileError)


@pytest.mark.parametrize(("to", "more"), [("hf-peft", ["--rank", "4"]), ("lora", [])])
def test_the_command_takes_a_rank_for_lora_alone(to, more, tmp_path):
    refused = CliRunner().invoke(app, ["export", "run", str(tmp_path / "out"), "--to", to, *more])

    assert isinstance(refused.exception, RecipeError)
    assert "--rank" in str(refused.exception)


def test_a_function_between_the_factors_is_refused(tmp_path):
    run = moved(tmp_path, {"name": "lora", "rank": 4}, "llama", "mpc={pattern: n}")

    with pytest.raises(RecipeError, match=r"has a function between its factors"):
        export_hf_peft(run.open(), tmp_path / "out")


def test_the_documentation_names_the_methods_without_an_equivalent():
    text = " ".join(Path("docs/export.md").read_text().split())
    readme = " ".join(Path("README.md").read_text().split())

    names = sorted(REFUSED, key=["houlsby", "pfeiffer", "parallel_adapter", "map"].index)
    listed = ", ".join(f"`{name}`" for name in names)
    assert f"{listed} and the constraint `mpc` n have no equivalent" in text
    assert f"for {len(EQUAL)} of the {len(methods())} methods" in readme
