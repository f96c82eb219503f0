"""Oracle: the list of a stock model's linears, and dense algebra for the bias."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import AutoConfig

from bigpeft.backbone import (
    Loader,
    PackedLinear,
    RandomWeights,
    Whole,
    build_skeleton,
    freeze_linears,
)
from bigpeft.errors import RecipeError, ShapeError
from bigpeft.placement import Placement, matches, optimizer_groups, place, start, trained
from bigpeft.quant import CodecOptions, make_codec
from tests.backbone.families import FAMILIES

CPU = torch.device("cpu")
LAYER = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]


def skeleton(family: str = "llama"):
    model = build_skeleton(AutoConfig.for_model(family, **FAMILIES[family]))
    freeze_linears(model, make_codec("nf4", CodecOptions()))
    return model


def filled(wanted: Placement, family: str = "llama", seed: int = 0):
    model = skeleton(family)
    seated = place(model, wanted)
    start(seated, seed, CPU, torch.float32)
    Loader(RandomWeights(model, 0.02, 0), Whole(), CPU, torch.float32, {}).fill(model)
    return model, seated


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", LAYER),
        (["q_proj", "v_proj"], ["self_attn.q_proj", "self_attn.v_proj"]),
        (["mlp.down_proj"], ["mlp.down_proj"]),
        (r".*\.(up|gate)_proj", ["mlp.gate_proj", "mlp.up_proj"]),
        (["down_proj", r".*self_attn\.o.*"], ["self_attn.o_proj", "mlp.down_proj"]),
    ],
)
def test_targets_are_ends_of_names_patterns_or_everything(targets, expected):
    seated = place(skeleton(), Placement("lora", {"rank": 2}, targets))

    assert list(seated) == [f"model.layers.{n}.{end}" for n in (0, 1) for end in expected]


def test_an_end_is_whole_words():
    assert matches("q_proj", "layers.0.q_proj")
    assert not matches("proj", "layers.0.q_proj")


def test_a_target_that_matches_nothing_is_refused_with_the_names_there_are():
    with pytest.raises(RecipeError, match=r"(?s)'nothing_proj' .*q_proj, k_proj") as caught:
        place(skeleton(), Placement("lora", {}, ["q_proj", "nothing_proj"]))

    assert caught.value.what == "method.target_modules"


def test_an_override_changes_the_layers_that_it_names_only():
    wanted = Placement("lora", {"rank": 4}, overrides={"down_proj": {"rank": 2}})
    seated = place(skeleton(), wanted)

    ranks = {name.rpartition(".")[2]: a.lora_A.shape[0] for name, a in seated.items()}
    assert ranks == {end.rpartition(".")[2]: 2 if "down" in end else 4 for end in LAYER}


def test_an_override_with_a_foreign_option_names_the_layer():
    wanted = Placement("lora", {}, overrides={"down_proj": {"rnak": 2}})

    with pytest.raises(RecipeError, match=r"down_proj\): rnak"):
        place(skeleton(), wanted)


def test_a_rank_that_a_layer_cannot_take_names_the_layer():
    with pytest.raises(ShapeError, match=r"model\.layers\.0\.self_attn\.k_proj: rank 30"):
        place(skeleton(), Placement("lora", {"rank": 30}))


def test_only_adapters_and_named_dense_modules_are_trained():
    model = skeleton()
    seated = place(model, Placement("ssl", train_modules=["norm"]))

    names = [item.name for item in trained(model, seated)]

    assert "model.norm.weight" in names
    assert "model.layers.0.self_attn.q_proj.scale_in" in names
    assert len(names) == 2 * len(LAYER) + 1


def test_training_a_packed_layer_in_full_is_refused():
    with pytest.raises(RecipeError, match="'q_proj' is packed"):
        place(skeleton(), Placement("ssl", train_modules=["q_proj"]))


def test_the_bias_is_added_after_the_method():
    model, _ = filled(Placement("ssb"), "qwen2")
    seat = model.model.layers[0].self_attn.q_proj
    seat.linear.bias.data.normal_()
    seat.adapter.scale_out.data.normal_()
    x = torch.randn(3, 48)

    weight = seat.adapter.merge(seat.linear.base.dense(torch.float32))

    assert_close(seat(x), F.linear(x, weight, seat.linear.bias))


def test_starts_depend_on_seed_and_layer_not_on_what_else_is_adapted():
    _, everything = filled(Placement("lora", {"rank": 2}))
    _, some = filled(Placement("lora", {"rank": 2}, ["v_proj"]))
    _, other = filled(Placement("lora", {"rank": 2}, ["v_proj"]), seed=1)
    name = "model.layers.1.self_attn.v_proj"

    assert torch.equal(everything[name].lora_A, some[name].lora_A)
    assert not torch.equal(other[name].lora_A, some[name].lora_A)
    layer0 = everything["model.layers.0.self_attn.v_proj"]
    assert not torch.equal(everything[name].lora_A, layer0.lora_A)


def test_optimizer_groups_follow_roles():
    model = skeleton()
    seated = place(model, Placement("lora_plus", {"rank": 2, "learning_rate_ratio": 8}))

    groups = optimizer_groups(trained(model, seated), learning_rate=1e-3, weight_decay=0.1)

    assert sorted((g["lr"], g["weight_decay"]) for g in groups) == [(1e-3, 0.1), (8e-3, 0.1)]
    scales = skeleton()
    seated = place(scales, Placement("ssb", {"learning_rate_scale": 5}))
    (only,) = optimizer_groups(trained(scales, seated), 1e-3, 0.1)
    assert (only["lr"], only["weight_decay"]) == (5e-3, 0.0)


def test_the_output_head_stays_dense():
    model = skeleton()

    assert not isinstance(model.lm_head, PackedLinear)
    assert sum(isinstance(m, PackedLinear) for m in model.modules()) == 2 * len(LAYER)


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(RecipeError, match=r"neither the end of a layer name nor a regular"):
        place(skeleton(), Placement("lora", {}, ["*_proj"]))


def test_a_module_to_train_that_matches_nothing_is_refused():
    with pytest.raises(RecipeError, match=r"method\.train_modules: 'nrom' matches no"):
        place(skeleton(), Placement("lora", train_modules=["nrom"]))


def test_names_of_what_is_trained_come_in_one_order_whatever_the_order_of_the_targets():
    orders = (["v_proj", "q_proj"], ["q_proj", "v_proj"], r".*\.[qv]_proj")
    names = []
    for targets in orders:
        model = skeleton()
        seated = place(model, Placement("lora", {"rank": 2}, targets, train_modules=["norm"]))
        names.append([item.name for item in trained(model, seated)])

    assert names[0] == names[1] == names[2]
    assert names[0][:2] == [f"model.layers.0.self_attn.q_proj.lora_{f}" for f in "AB"]
    assert len(set(names[0])) == len(names[0]) == 9


def test_dense_vectors_are_not_decayed_and_adapters_are():
    model = skeleton()
    seated = place(model, Placement("lora", {"rank": 2}, train_modules=["norm", "lm_head"]))

    groups = optimizer_groups(trained(model, seated), learning_rate=1e-3, weight_decay=0.1)

    decayed = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decayed[id(model.model.norm.weight)] == 0.0
    assert decayed[id(model.lm_head.weight)] == 0.1
    assert decayed[id(model.model.layers[0].mlp.up_proj.adapter.lora_A)] == 0.1
