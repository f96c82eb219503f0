"""`bigpeft methods` tells what is there. Oracle: the placed skeleton's own parameters."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.methods import methods
from bigpeft.placement import place
from bigpeft.plan import bare_model, placement_for
from bigpeft.recipe import load_recipe

FACTS = {"name", "family", "trainable", "needs_dense", "mergeable", "supports_mpc", "source"}


def told(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["methods", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_json_is_a_list_of_objects_with_all_facts():
    listed = json.loads(told("--json"))

    assert [row["name"] for row in listed] == sorted(methods())
    for row in listed:
        assert set(row) >= FACTS
        assert row["family"] in ("reconstruction", "extension", "combination")
        assert all(row[key] not in ("", None) for key in FACTS)


@pytest.mark.parametrize("name", sorted(methods()))
def test_the_page_of_a_method_has_formula_reach_advice_rate_and_options(name):
    method = methods()[name]
    page = told(name)

    for text in (method.moves, method.when, method.learning_rate_source, method.source):
        assert " ".join(text.split()) in " ".join(page.split())
    for option, field in method.Options.model_fields.items():
        assert f"{option} = " in page
        assert field.description in page


def test_counts_for_a_recipe_are_those_of_the_placed_model():
    recipe = load_recipe(Path("recipes/debug.yaml"))
    listed = {
        row["name"]: row["trainable"]
        for row in json.loads(told("--json", "--recipe", "recipes/debug.yaml"))
    }

    for name in methods():
        model = bare_model(recipe)
        place(model, placement_for(recipe, name))
        assert listed[name] == sum(p.numel() for p in model.parameters() if p.requires_grad), name
