"""LoRA adapters of HF peft as the start of a run. Oracle: the loss of peft's own model."""

import json
import re
import shutil

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError
from bigpeft.export import export_hf_peft, import_peft, read_adapter
from bigpeft.plan import make_plan
from bigpeft.recipe import load_recipe
from bigpeft.train.inputs import read_inputs
from bigpeft.world import World
from tests.export.moved import moved
from tests.export.test_merge import train_and_export
from tests.train.runs import DEBUG, column, final_state, refusals, run, summary
from tests.worlds import world

ENDS = ["q_proj", "v_proj", "down_proj"]
KINDS = {
    "lora": {"r": 4, "lora_alpha": 10},
    "rslora": {"r": 4, "lora_alpha": 10, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 10,
        "rank_pattern": {"q_proj": 2, r"^model\.layers\.1\..*down_proj": 6},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 3},
    },
    "some layers": {"r": 4, "lora_alpha": 10, "layers_to_transform": [1]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The debug recipe's Llama of two layers as files."""
    folder = tmp_path_factory.mktemp("base")
    values = yaml.safe_load(DEBUG.read_text())["model"]["config"] | {"num_hidden_layers": 2}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).save_pretrained(folder)
    return folder


def adapter_of(base, folder, **options):
    """An adapter that peft has made, moved off its start and saved; and peft's model with it."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", **{"target_modules": ENDS} | options)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def said(base, section, *more):
    """Overrides of the debug recipe: this base, unquantised, and this method section."""
    model = {"name": str(base), "tokenizer": "recipes/data/debug/tokenizer", "weights": "none"}
    return [f"model={json.dumps(model)}", f"method={json.dumps(section)}", "train.steps=1", *more]


@torch.no_grad()
def held_out_loss(model, folder, overrides):
    """Mean loss over the target tokens of the debug recipe's held-out rows."""
    plan = make_plan(load_recipe(DEBUG, [f"run.folder={folder}", *overrides]), World())
    rows = read_inputs(plan, folder, print).tasks[0].tokens
    total, count = 0.0, 0
    for number in range(len(rows)):
        ids, targets = rows.row(number)
        found = model(input_ids=ids[None].long()).logits[0, :-1]
        losses = F.cross_entropy(found, ids[1:].long(), reduction="none")[targets[1:]]
        total, count = total + float(losses.sum()), count + len(losses)
    return total / count


@pytest.mark.parametrize(
    ("kind", "size", "stage"),
    [*((kind, 2, "zero3") for kind in KINDS), ("lora", 2, "zero2"), ("lora", 1, "zero0")],
)
def test_a_run_starts_where_peft_left_off(kind, size, stage, base, tmp_path):
    theirs = adapter_of(base, tmp_path / "theirs", **KINDS[kind])

    made = import_peft(tmp_path / "theirs", tmp_path / "ours")

    section = yaml.safe_load((tmp_path / "ours" / "method.yaml").read_text())["method"]
    overrides = said(base, section, f"sharding.fragment={stage}")
    run(size, tmp_path / "run", *overrides)
    expected = held_out_loss(theirs, tmp_path / "data", overrides)
    assert section == made.section
    assert summary(tmp_path / "run")["eval_loss_before"] == pytest.approx(expected, abs=1e-5)
    fresh = {key: value for key, value in section.items() if key != "start_from"}
    run(size, tmp_path / "fresh", *said(base, fresh))
    assert abs(summary(tmp_path / "fresh")["eval_loss_before"] - expected) > 1e-2


def test_the_masters_are_those_of_the_adapter_to_the_last_bit(base, tmp_path):
    adapter_of(base, tmp_path / "theirs", **KINDS["lora"])
    made = import_peft(tmp_path / "theirs", tmp_path / "ours")

    still = said(base, made.section, "optimizer.learning_rate=1e-30", "train.precision=bf16")
    state = final_state(2, tmp_path / "run", *still)

    for name, tensor in read_adapter(tmp_path / "ours")[0].items():
        assert torch.equal(torch.from_numpy(state[f"{name}.master"]), tensor), name


def test_what_is_exported_and_imported_again_is_the_same_to_the_last_bit(tmp_path):
    overrides = {"q_proj": {"rank": 2, "alpha": 7.5}}
    one = moved(tmp_path, {"name": "lora", "rank": 3, "alpha": 10, "overrides": overrides})

    export_hf_peft(one.open(), tmp_path / "theirs")
    made = import_peft(tmp_path / "theirs", tmp_path / "again")

    before, now = read_adapter(one.folder / "adapter"), read_adapter(tmp_path / "again")
    assert before[0].keys() == now[0].keys()
    assert all(torch.equal(before[0][name], now[0][name]) for name in now[0])
    assert now[1]["layers"] == before[1]["layers"]
    assert (made.section["rank"], made.section["alpha"]) == (3, 10)
    assert made.section["overrides"]["model.layers.1.self_attn.q_proj"] == {"rank": 2, "alpha": 7.5}


@pytest.mark.parametrize(
    "method", [f"{{name: {m}, rank: 4}}" for m in ("dora", "pissa", "lora_fa")]
)
def test_a_run_starts_from_another_run_of_any_method(method, base, tmp_path):
    section = yaml.safe_load(method)
    world(2).call(train_and_export, tmp_path / "one", said(base, section, "train.steps=3"))

    again = {**section, "start_from": str(tmp_path / "one" / "adapter")}
    run(2, tmp_path / "two", *said(base, again, "run.seed=8"))

    ended = summary(tmp_path / "one")["eval_loss_after"]
    assert summary(tmp_path / "two")["eval_loss_before"] == pytest.approx(ended, abs=1e-6)


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(base, tmp_path):
    overrides = said(base, {"name": "lora", "rank": 4})
    world(1).call(train_and_export, tmp_path / "first", overrides)
    other = shutil.copytree(base, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] += 1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    section = {"name": "lora", "rank": 4, "start_from": str(tmp_path / "first/adapter")}

    refused = refusals(2, tmp_path / "run", *said(other, section))

    kinds, texts = zip(*refused, strict=True)
    assert kinds == ("FileError", "FileError")
    assert "the numbers of model.layers.1.mlp.up_proj.weight differ" in texts[0]
    assert re.search(r"belongs to base \w{16}, this one is \w{16}", texts[0])


def test_a_resumed_run_goes_on_from_its_checkpoint_even_when_the_adapter_is_gone(base, tmp_path):
    adapter_of(base, tmp_path / "theirs", **KINDS["lora"])
    section = import_peft(tmp_path / "theirs", tmp_path / "ours").section
    whole = said(base, section, "train.steps=4")
    run(2, tmp_path / "unbroken", *whole)
    run(2, tmp_path / "broken", *whole, "train.stop_after=2")
    shutil.rmtree(tmp_path / "ours")

    run(2, tmp_path / "broken", *whole, "checkpoint.resume=auto")

    assert column(tmp_path / "broken", "loss") == column(tmp_path / "unbroken", "loss")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rank": 5}, r"ours: has \S+lora_A of shape \(4, \d+\), the recipe wants \(5,"),
        (
            {"target_modules": ["q_proj"]},
            r"ours: holds \S+down_proj.lora_A, which the recipe has",
        ),
        ({"target_modules": [*ENDS, "k_proj"]}, r"ours: lacks \S+k_proj.lora_A"),
        ({"name": "rslora"}, "holds an adapter of lora, the recipe says rslora"),
        ({"start_from": "nowhere"}, "nowhere: is no adapter"),
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_refused_on_every_rank(change, reason, base, tmp_path):
    adapter_of(base, tmp_path / "theirs", **KINDS["lora"])
    section = import_peft(tmp_path / "theirs", tmp_path / "ours").section

    for kind, text in refusals(2, tmp_path / "run", *said(base, section | change)):
        assert kind in ("FileError", "RecipeError")
        assert re.search(reason, text), text


def edited(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors_edited(folder, edit):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors, next(iter(tensors)))
    save_file(tensors, path)


def to_pickle(folder):
    path = folder / "adapter_model.safetensors"
    path.rename(path.with_suffix(".bin"))


WRONG = {
    "is a pickle": to_pickle,
    "only LORA is imported": lambda f: edited(f, peft_type="LOHA"),
    "has use_dora True": lambda f: edited(f, use_dora=True),
    "has modules_to_save": lambda f: edited(f, modules_to_save=["lm_head"]),
    "has bias 'all'": lambda f: edited(f, bias="all"),
    "has what_comes_next": lambda f: edited(f, what_comes_next=1),
    "init_lora_weights pissa has changed": lambda f: edited(f, init_lora_weights="pissa"),
    r"has rank 4 at \S+, adapter_config.json says 5": lambda f: edited(f, r=5),
    "broken pattern": lambda f: edited(f, rank_pattern={"(": 4}),
    "wrong dropout": lambda f: edited(f, lora_dropout=2),
    "no two factors that fit": lambda f: tensors_edited(f, lambda t, name: t.pop(name)),
    "no factor of LoRA": lambda f: tensors_edited(f, lambda t, n: t.update(x=t[n].clone())),
    "holds no factors": lambda f: tensors_edited(f, lambda t, name: t.clear()),
    "adapter_config.json: cannot be read": lambda f: (f / "adapter_config.json").unlink(),
    "adapter_model.safetensors: cannot be read": lambda f: (
        f / "adapter_model.safetensors"
    ).write_bytes(b"cut off"),
}


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "theirs"
    adapter_of(base, folder, **KINDS["lora"])
    return folder


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_damaged_or_more_than_lora_is_refused(reason, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "theirs")
    WRONG[reason](folder)

    with pytest.raises(FileError, match=reason):
        import_peft(folder, tmp_path / "ours")

    assert not (tmp_path / "ours").exists()


def test_the_command_prints_the_section_that_the_folder_holds(plain, tmp_path):
    words = ["import", str(plain), str(tmp_path / "ours")]

    told = CliRunner().invoke(app, words)
    again = CliRunner().invoke(app, words)

    assert told.exit_code == 0
    assert told.output.endswith((tmp_path / "ours" / "method.yaml").read_text())
    assert isinstance(again.exception, FileError)
