"""Methods behind linears and on the input in whole runs. Oracles: one rank at stage 0, the file,
and the run that was never interrupted.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bigpeft.checkpoint import training_state
from bigpeft.data import load_tokenizer
from bigpeft.errors import RecipeError
from bigpeft.export import merge, open_run
from bigpeft.placement import trained
from bigpeft.plan import make_plan
from bigpeft.recipe import load_recipe
from bigpeft.train.backbone import load_backbone
from bigpeft.train.engine import gather
from bigpeft.world import World, read_world
from tests.backbone.families import GROUPED, saved_model
from tests.train.runs import DEBUG, column, final_state, run, train_and_save_here
from tests.worlds import world

STEPS = [
    "model.layers=2",
    "train.steps=4",
    "batch={global_size: 4, micro_size: 2}",
    "optimizer.learning_rate=1e-2",
    "optimizer.weight_decay=0.1",
]
TEXT = "Answer with yes or no."
METHODS = {
    "houlsby": "{name: houlsby, rank: 8}",
    "pfeiffer": "{name: pfeiffer, rank: 8}",
    "prompt_tuning": "{name: prompt_tuning, length: 6}",
    "prompt_tuning, text": f"{{name: prompt_tuning, length: 6, init: text, text: '{TEXT}'}}",
    "p_tuning, mlp": "{name: p_tuning, length: 6}",
    "p_tuning, lstm": "{name: p_tuning, length: 6, encoder: lstm, encoder_hidden_size: 32}",
    "prefix_tuning": "{name: prefix_tuning, length: 6}",
    "prefix_tuning, projection": "{name: prefix_tuning, length: 6, projection: true}",
}
WORLDS = {
    "stage 3": [],
    "stage 3, recomputing": ["train.activation_checkpointing=true"],
    "stage 2": ["sharding.fragment=zero2"],
}
# fp32: sums over ranks in another order
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module", params=METHODS)
def oracle(request, tmp_path_factory) -> tuple[str, Path]:
    """Each method's run on one rank."""
    method = f"method={METHODS[request.param]}"
    folder = tmp_path_factory.mktemp("one")
    return method, run(1, folder, *STEPS, method, "sharding.fragment=zero0")


@pytest.mark.parametrize("case", WORLDS)
def test_two_ranks_learn_what_one_learns(case, oracle, tmp_path):
    method, folder = oracle

    run(2, tmp_path, *STEPS, method, *WORLDS[case])

    for key in ("loss", "grad_norm"):
        assert_close(column(tmp_path, key), column(folder, key), **TOLERANCE)


@pytest.mark.parametrize("method", ["houlsby", "prompt_tuning", "p_tuning, lstm", "prefix_tuning"])
def test_an_interrupted_run_is_the_uninterrupted_one_bit_for_bit(method, tmp_path):
    more = [*STEPS, f"method={METHODS[method]}", "eval=null"]
    expected = final_state(2, tmp_path / "whole", *more)

    run(2, tmp_path / "cut", *more, "train.stop_after=2")
    state = final_state(2, tmp_path / "cut", *more, "checkpoint.resume=auto")

    for key in ("step", "loss", "grad_norm"):
        assert column(tmp_path / "cut", key) == column(tmp_path / "whole", key)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


@pytest.mark.parametrize("method", METHODS)
def test_it_trains_in_bf16(method, tmp_path):
    run(2, tmp_path, *STEPS, f"method={METHODS[method]}", "train.precision=bf16")

    assert np.isfinite(column(tmp_path, "loss")).all()
    assert column(tmp_path, "grad_norm")[-1] > 0


def started_here(model: Path, overrides: list[str]) -> tuple[Tensor, tuple[int, ...]]:
    """What one rank's prompt starts as, and the tokens that it drew."""
    source = [f"model={{name: {model}, tokenizer: {model}}}", *overrides]
    plan = make_plan(load_recipe(DEBUG, source), read_world())
    load_backbone(plan, plan.open_weights(), torch.device("cpu"))
    (method,) = plan.seated.values()
    gather(list(method.parameters()))
    return method.prompt.detach().clone(), method.drawn  # type: ignore[return-value]


@pytest.mark.parametrize("weights", ["nf4", "none"])
@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_a_prompt_starts_as_the_same_rows_of_the_file_on_any_ranks(family, weights, tmp_path):
    embedding = saved_model(family, tmp_path).get_input_embeddings().weight.detach()
    more = ["method={name: prompt_tuning, length: 11}", f"model.weights={weights}"]

    ranks = [
        *world(1).call(started_here, tmp_path, [*more, "sharding.fragment=zero0"]),
        *world(1).call(started_here, tmp_path, more),
        *world(2).call(started_here, tmp_path, more),
    ]

    for prompt, drawn in ranks:
        assert drawn == ranks[0][1]
        assert torch.equal(prompt, embedding[list(drawn)])


def inline(family: str = "llama", **changes: object) -> str:
    """An inline configuration as an override."""
    config = {"model_type": family, **GROUPED, "vocab_size": 384, **changes}
    return "model.config=" + str(config).replace("'", '"')


def test_the_plan_finds_the_tokens_of_the_text():
    tokenizer = load_tokenizer("recipes/data/debug/tokenizer")

    plan = make_plan(
        load_recipe(DEBUG, ["run.folder=x", f"method={METHODS['prompt_tuning, text']}"]), World()
    )

    (method,) = plan.seated.values()
    assert tokenizer.decode(list(method.tokens)) == TEXT  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "more", "key", "fix"),
    [
        ("{name: prompt_tuning, init: text}", [], "method.text", "few words"),
        ("{name: prompt_tuning, init: text, text: ''}", [], "method.text", "few words"),
        (
            "{name: prompt_tuning, init: text, text: yes or no}",
            [inline(vocab_size=40)],
            "method.text",
            "model.tokenizer that belongs",
        ),
        (
            "{name: prompt_tuning, init: text, text: yes or no}",
            ["model.tokenizer=null"],
            "model.tokenizer",
            "name a folder",
        ),
        (
            "{name: prefix_tuning, length: 6}",
            [inline("opt", word_embed_proj_dim=48), "data.max_length=60"],
            "method.length",
            "write data.max_length: 58 or less",
        ),
        (
            "{name: p_tuning, length: 64}",
            [inline("gpt2", n_embd=48, n_head=4, n_positions=64), "data.max_length=60"],
            "method.length",
            "write less than 64",
        ),
    ],
)
def test_the_plan_refuses_a_text_or_a_length_that_cannot_be(method, more, key, fix):
    recipe = load_recipe(DEBUG, ["run.folder=x", f"method={method}", *more])

    with pytest.raises(RecipeError) as caught:
        make_plan(recipe, World())

    assert caught.value.what == key
    assert fix in caught.value.fix


@pytest.mark.parametrize(("family", "rows"), [("opt", 58), ("llama", 100)])
def test_rows_that_just_fit_and_rotary_positions_are_planned(family, rows):
    more = [inline(family, word_embed_proj_dim=48), f"data.max_length={rows}"]
    recipe = load_recipe(DEBUG, ["run.folder=x", f"method={METHODS['prompt_tuning']}", *more])

    assert make_plan(recipe, World()).trainable == 6 * 48


def saved_here(folder: Path, overrides: list[str]) -> dict[str, Tensor]:
    """One rank's part of a run whose adapter is saved; the masters at its end."""
    finished = train_and_save_here(folder, overrides)
    state = training_state(finished.engine)
    return {item.name: state.read(item.parameter, None).clone() for item in finished.trained}


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_opens_again_and_does_not_merge(method, tmp_path):
    overrides = [*STEPS, "train.steps=2", f"method={METHODS[method]}"]
    masters = world(2).call(saved_here, tmp_path / "run", overrides)[0]

    opened = open_run(tmp_path / "run")

    found = {t.name: t.parameter.detach() for t in trained(opened.model, opened.seated)}
    assert found.keys() == masters.keys()
    for name, value in found.items():
        assert torch.equal(value, masters[name]), name
    with pytest.raises(RecipeError, match="does not merge"):
        merge(opened, tmp_path / "merged")
