"""Packed rows. Oracles: the same rows unpacked, and the model on each row by itself."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from bigpeft.data import Packed, collate, pack
from bigpeft.plan import make_plan
from bigpeft.recipe import load_recipe
from bigpeft.train.batches import Batches
from bigpeft.train.inputs import read_inputs
from bigpeft.train.saving import Position
from bigpeft.train.units import side_by_side
from bigpeft.world import World
from tests.backbone.families import FAMILIES, saved_model
from tests.checkpoint.test_resume import assert_same
from tests.data.test_collate import tokens_of
from tests.train.runs import DEBUG, column, final_state, refusals, run

ROWS = [
    "model.layers=2",
    "data.limit=32",
    "data.shuffle=false",
    "train.steps=3",
    "optimizer.clip=0.5",
    "eval=null",
]
PACKS = 8  # of 128 tokens, out of the first 32 rows


@pytest.mark.parametrize("size", [1, 2])
def test_packed_rows_teach_what_they_teach_unpacked(size, tmp_path):
    """Every step sees all rows, so the runs must be one: losses, gradients, what is learned."""
    plain = final_state(1, tmp_path / "plain", *ROWS, "batch={global_size: 32, micro_size: 4}")

    packing = ["data.packing=true", f"batch={{global_size: {PACKS}, micro_size: 2}}"]
    packed = final_state(size, tmp_path / "packed", *ROWS, *packing)

    for key in ("loss", "grad_norm"):
        one, other = (column(tmp_path / name, key) for name in ("packed", "plain"))
        assert_allclose(one, other, rtol=0, atol=1e-5, err_msg=key)
    assert column(tmp_path / "packed", "tokens") == column(tmp_path / "plain", "tokens")
    for name, value in plain.items():
        assert_allclose(packed[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "opt"])
def test_a_packed_row_has_the_logits_that_it_has_alone(family, flat, tmp_path):
    model = saved_model(family, tmp_path)
    model.config.use_cache = False
    torch.manual_seed(1)
    rows = [[(int(i), True) for i in torch.randint(3, 96, (n,))] for n in (9, 7, 5, 13, 4)]
    tokens = tokens_of(rows)
    packed = Packed(tokens, pack(tokens.offsets.diff(), 18), 0, flat)

    batch = packed.batch([packed.item(index) for index in range(len(packed))])
    together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits

    whole = batch["input_ids"].flatten().tolist()
    together = together.flatten(0, 1)
    for index in range(len(rows)):
        ids = tokens.row(index)[0].tolist()
        start = next(n for n in range(len(whole)) if whole[n : n + len(ids)] == ids)
        alone = model(**{k: v for k, v in collate(tokens, [index], 0).items() if k != "labels"})
        assert_close(
            together[start : start + len(ids)], alone.logits[0, : len(ids)], atol=2e-5, rtol=1e-5
        )


def test_a_model_that_would_mix_packed_rows_is_refused_by_all_ranks(tmp_path):
    config = {**FAMILIES["opt"], "model_type": "opt", "vocab_size": 384}
    inline = "{" + ", ".join(f"{key}: {value}" for key, value in config.items()) + "}"
    more = [f"model.config={inline}", "data.max_length=60", "data.packing=true"]

    for kind, text in refusals(2, tmp_path, *more, "batch.global_size=4"):
        assert kind == "RecipeError"
        assert "data.packing: opt models do not keep packed rows apart" in text


def test_virtual_tokens_do_not_go_with_packs(tmp_path):
    more = ["method={name: prompt_tuning, length: 4}", "data.packing=true"]

    ((kind, text),) = refusals(1, tmp_path, *more)

    assert kind == "RecipeError"
    assert "data.packing: prompt_tuning puts its tokens before a row" in text


def test_flash_attention_is_refused_where_there_is_none(tmp_path):
    ((kind, text),) = refusals(1, tmp_path, "model.attention=flash_attention_2")

    assert kind == "RecipeError"
    assert text.startswith("model.attention: flash_attention_2 cannot be used: the package")


def test_attention_is_of_the_kind_that_the_recipe_names(tmp_path):
    for kind in ("sdpa", "eager"):
        overrides = [f"run.folder={tmp_path}", f"model.attention={kind}"]
        plan = make_plan(load_recipe(DEBUG, overrides), World())
        assert plan.model.config._attn_implementation == kind


WORKERS = [
    "model.layers=2",
    "data.workers=2",
    "batch={global_size: 4, micro_size: 1}",
    "method={name: adalora, rank: 4, target_rank: 2, interval: 1, final_share: 0.2, dropout: 0.1}",
    "optimizer.learning_rate=2e-2",
    "train.steps=6",
    "eval=null",
]


@pytest.mark.parametrize("rows", ["data.packing=true", "data.group_by_length=true"])
def test_stopped_with_workers_on_in_mid_epoch_it_goes_on_as_if_it_had_not(rows, tmp_path):
    """With accumulation, and while AdaLoRA prunes; and the workers change nothing."""
    more = [*WORKERS, rows, "data.limit=23"]
    expected = final_state(2, tmp_path / "whole", *more)
    run(2, tmp_path / "alone", *more, "data.workers=0")

    run(2, tmp_path / "cut", *more, "train.stop_after=3")
    state = final_state(2, tmp_path / "cut", *more, "checkpoint.resume=auto")

    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert_same(tmp_path / "alone", tmp_path / "whole")
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


def test_rows_grouped_by_length_are_padded_less(tmp_path):
    places, tokens = {}, {}
    for key in (False, True):
        batch = ["batch={global_size: 16, micro_size: 4}", f"data.group_by_length={key}".lower()]
        plan = make_plan(load_recipe(DEBUG, [f"run.folder={tmp_path}", *batch]), World())
        inputs = read_inputs(plan, tmp_path, print)
        batches = Batches(side_by_side(inputs.tokens, inputs.pad_id, plan), plan, Position())
        epoch = [micro for step in range(4) for micro in batches[step]]
        places[key] = sum(micro["input_ids"].numel() for micro in epoch)
        tokens[key] = sum(int(micro["attention_mask"].sum()) for micro in epoch)

    assert tokens[True] == tokens[False]
    padding = {key: places[key] - tokens[key] for key in places}
    assert padding[True] < 0.5 * padding[False]


def test_rows_without_padding_are_not_grouped(tmp_path):
    for key in ("data.packing=true", "data.shuffle=false"):
        ((kind, text),) = refusals(1, tmp_path, key, "data.group_by_length=true")
        assert kind == "RecipeError"
        assert "group_by_length" in text
