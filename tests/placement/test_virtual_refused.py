"""What virtual tokens refuse, and room for their positions. Oracle: the families' sizes."""

import pytest
from transformers import AutoConfig

from bigpeft.backbone import build_skeleton
from bigpeft.errors import RecipeError
from bigpeft.placement import Placement, place, position_limit
from tests.backbone.families import FAMILIES, saved_model
from tests.placement.test_place import skeleton
from tests.placement.test_virtual import METHODS, load, rows


@pytest.mark.parametrize("family", FAMILIES)
def test_learned_positions_have_a_limit_and_others_have_none(family):
    kind = family.partition("-")[0]

    assert position_limit(skeleton(kind)) == (64 if kind in ("gpt2", "opt") else None)


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("target_modules", Placement("prompt_tuning", target_modules=["q_proj"])),
        ("overrides", Placement("p_tuning", overrides={"q_proj": {"length": 3}})),
    ],
)
def test_patterns_of_layers_mean_nothing_to_a_method_on_the_input(key, wanted):
    with pytest.raises(RecipeError, match="it sits on the input") as caught:
        place(skeleton(), wanted)

    assert caught.value.what == f"method.{key}"


@pytest.mark.parametrize("name", METHODS)
def test_no_virtual_tokens_are_refused(name):
    with pytest.raises(RecipeError, match="length: Input should be greater than 0"):
        place(skeleton(), Placement(name, {"length": 0}))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2}, "positions"),
        ({"model_type": "mpt", "d_model": 32, "n_layers": 1, "n_heads": 2}, "positions"),
        ({"model_type": "openai-gpt", "n_embd": 32, "n_layer": 2, "n_head": 2}, "0 of 2 layers"),
    ],
    ids=str,
)
def test_a_prefix_is_refused_where_it_has_no_way_in(config, why):
    model = build_skeleton(AutoConfig.for_model(**config))

    with pytest.raises(RecipeError, match=f"prefix_tuning has no way into .*{why}") as caught:
        place(model, Placement("prefix_tuning"))

    assert "prompt_tuning" in caught.value.fix


@pytest.mark.parametrize("name", METHODS)
def test_a_cache_of_earlier_tokens_is_refused(name, tmp_path):
    saved_model("llama", tmp_path)
    model, _ = load(tmp_path, name)

    with pytest.raises(NotImplementedError, match="use_cache=False"):
        model(**rows(padded=False), use_cache=True)
