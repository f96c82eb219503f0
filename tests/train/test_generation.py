"""Answers of packed and sharded models. Oracle: `generate` of the same dense model by itself."""

from pathlib import Path

import pytest
import torch

from bigpeft.data import Prompt
from bigpeft.plan import make_plan
from bigpeft.recipe import load_recipe
from bigpeft.train.generation import Generator, Sampling
from bigpeft.train.rows import tokenizer_of
from bigpeft.train.run import train
from bigpeft.train.terminal import Terminal
from bigpeft.world import read_world
from tests.backbone.families import saved_model
from tests.train.runs import DEBUG
from tests.worlds import world

PROMPTS = [Prompt(tuple(range(3, 3 + n)), "") for n in (4, 9, 2, 6, 7)]
STOP = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, saved_model("llama", folder, vocab_size=384)


def overrides_of(folder: Path) -> list[str]:
    return [
        "model={name: " + f"{folder}, weights: none, tokenizer: recipes/data/debug/tokenizer}}",
        "data.max_length=64",
        "batch.global_size=6",
        "train.steps=1",
        "optimizer.learning_rate=1e-30",  # nothing is learned: the model stays the dense one
        "eval=null",
        "method={name: lora, rank: 2}",
    ]


def answers_here(model: Path, folder: Path, more: list[str], sampling: Sampling, size: int):
    overrides = [*overrides_of(model), f"run.folder={folder}", *more]
    recipe = load_recipe(DEBUG, overrides)
    finished = train(recipe, read_world(), Terminal(speaks=False))
    tokenizer = tokenizer_of(make_plan(recipe, read_world()))
    virtual = recipe.method.name == "prompt_tuning"
    return Generator(finished.engine, tokenizer, virtual).tokens(PROMPTS, sampling, size)


def answers(size, model, tmp_path, sampling, micro_size, *more):
    folder, _ = model
    found = world(size).call(
        answers_here, folder, tmp_path / f"{size}-{micro_size}", list(more), sampling, micro_size
    )
    assert all(one == found[0] for one in found)
    return found[0]


@pytest.mark.parametrize(("size", "micro_size"), [(1, 1), (2, 2), (3, 1)])
def test_greedy_answers_are_those_of_the_dense_model(size, micro_size, model, tmp_path):
    _, dense = model
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt.ids])
        out = dense.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=STOP,
            pad_token_id=0,
        )
        new = out[0, ids.shape[1] :].tolist()
        expected.append(new[: new.index(STOP)] if STOP in new else new)

    found = answers(size, model, tmp_path, Sampling(12, stop=(STOP,)), micro_size)

    assert found == expected


def test_drawn_answers_depend_on_the_seed_and_not_on_neighbours_or_ranks(model, tmp_path):
    drawn = Sampling(8, temperature=1.0, top_p=0.9, seed=3, stop=(STOP,))
    one = answers(1, model, tmp_path / "one", drawn, 5)

    assert answers(2, model, tmp_path / "two", drawn, 1) == one
    other = Sampling(8, temperature=1.0, top_p=0.9, seed=4, stop=(STOP,))
    assert answers(2, model, tmp_path / "other", other, 2) != one


def test_virtual_tokens_stand_before_the_prompt_in_every_pass(model, tmp_path):
    method = "method={name: prompt_tuning, length: 3}"
    one = answers(1, model, tmp_path / "one", Sampling(6, stop=(STOP,)), 4, method)

    assert answers(2, model, tmp_path / "two", Sampling(6, stop=(STOP,)), 4, method) == one
