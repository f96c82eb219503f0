"""The recipe that a run leaves, every default written out, plans as the recipe did."""

from pathlib import Path

import pytest

from bigpeft.methods import methods
from bigpeft.plan import make_plan
from bigpeft.recipe import dump_recipe, load_recipe
from bigpeft.world import read_world

SMALL = ["model.layers=1"]
CASES = [[f"method={{name: {name}}}"] for name in methods()]
CASES += [
    ["method={name: adalora, rank: 4}"],
    *([f"mpc={{pattern: {pattern}}}", "method={name: trilora, rank: 4}"] for pattern in "odn"),
]


@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_a_dumped_recipe_plans_alike(overrides, tmp_path):
    recipe = load_recipe(Path("recipes/debug.yaml"), [*SMALL, *overrides])
    dumped = tmp_path / "recipe.yaml"

    dumped.write_text(dump_recipe(recipe))
    again = load_recipe(dumped)

    assert again == recipe
    plans = [make_plan(r, read_world()) for r in (recipe, again)]
    assert plans[0].trainable == plans[1].trainable > 0
    assert list(plans[0].seated) == list(plans[1].seated)
