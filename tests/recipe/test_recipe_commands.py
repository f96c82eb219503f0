"""`bigpeft recipe check`, `show` and `schema`."""

import json

import pytest
from typer.testing import CliRunner

from bigpeft.cli.recipe import app
from bigpeft.errors import RecipeError
from bigpeft.recipe import Recipe, load_recipe


def test_check_says_that_a_good_recipe_is_fine(small):
    result = CliRunner().invoke(app, ["check", "small.yaml", "train.epochs=2"])

    assert (result.exit_code, result.output) == (0, "small.yaml: fine\n")


def test_check_lets_the_mistake_of_a_bad_recipe_through(small):
    with pytest.raises(RecipeError, match=r"did you mean train\.steps"):
        CliRunner().invoke(app, ["check", "small.yaml", "train.stpes=2"], catch_exceptions=False)


def test_show_prints_a_recipe_that_loads_as_the_same(small):
    shown = CliRunner().invoke(app, ["show", "small.yaml", "method.name=ssb"]).output
    expected = load_recipe(small, ["method.name=ssb"])
    small.write_text(shown)

    assert load_recipe(small) == expected


def test_schema_prints_json_that_describes_every_section():
    schema = json.loads(CliRunner().invoke(app, ["schema"]).output)

    assert list(schema["properties"]) == list(Recipe.model_fields)
