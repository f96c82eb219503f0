"""`section.key=value` over a file."""

import pytest

from bigpeft.recipe import load_recipe


def test_values_are_yaml(small):
    targets = "method.target_modules=[q_proj, v_proj]"

    recipe = load_recipe(small, [targets, "train.steps=20", "eval={path: a=b.jsonl}"])

    assert recipe.method.target_modules == ("q_proj", "v_proj")
    assert recipe.train.steps == 20
    assert recipe.eval.path == "a=b.jsonl"


def test_a_section_can_be_taken_away(small):
    small.write_text(small.read_text() + "eval: {path: a.jsonl}\n")

    assert load_recipe(small, ["eval=null"]).eval is None


def test_keys_below_a_missing_key_are_made(small):
    recipe = load_recipe(small, ["model.random=true", "model.config.rope.theta=64"])

    assert recipe.model.config == {"rope": {"theta": 64}}


def test_the_last_of_two_overrides_counts(small):
    assert load_recipe(small, ["train.steps=20", "train.steps=30"]).train.steps == 30


def test_another_method_leaves_behind_the_options_that_only_the_old_one_has(small):
    text = small.read_text().replace("alpha: 32", "alpha: 32\n  overrides: {q_proj: {rank: 4}}")
    small.write_text(text)

    plain = load_recipe(small, ["method.name=ssb"]).method
    ranked = load_recipe(small, ["method.name=rslora"]).method

    assert (plain.name, plain.overrides) == ("ssb", {"q_proj": {}})
    assert (ranked.name, ranked.rank, ranked.overrides) == ("rslora", 16, {"q_proj": {"rank": 4}})


def test_another_method_does_not_excuse_an_option_that_no_method_has(message):
    text = message("rank: 16", "rnak: 16", overrides=("method.name=rslora",))

    assert "small.yaml:5 method.rnak: is not a key of method" in text
    assert "fix: did you mean method.rank?" in text


def test_another_method_does_not_excuse_an_option_of_the_command_line(message):
    text = message(overrides=("method.rank=4", "method.name=ssb"))

    assert "command line: method.rank=4: is not an option of ssb" in text


@pytest.mark.parametrize(("before", "after"), [("steps", "epochs"), ("epochs", "steps")])
def test_steps_and_epochs_replace_each_other(small, before, after):
    small.write_text(small.read_text().replace("steps: 10", f"{before}: 10"))

    train = load_recipe(small, [f"train.{after}=2"]).train

    assert (getattr(train, before), getattr(train, after)) == (None, 2)


def test_steps_and_epochs_on_the_same_command_line_are_a_mistake(message):
    text = message(overrides=("train.steps=2", "train.epochs=2"))

    assert "small.yaml:13 train: " in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "train.steps",
            "is not an override\n  fix: write section.key=value, such as train.steps=10",
        ),
        ("=3", "is not an override\n  fix: write section.key=value"),
        ("train..steps=3", "is not an override\n  fix: write section.key=value"),
        ("--train.steps=3", "is not an override\n  fix: write section.key=value"),
        ("train.steps=", "has no value\n  fix: write train.steps=null to unset the key"),
        (
            "method.target_modules=[q_proj",
            "is not YAML: expected ',' or ']', but got the end\n  fix: quote",
        ),
        (
            "data.path.x=1",
            'cannot be set: data.path is "data/train.jsonl", which has no keys\n'
            "  fix: set data.path",
        ),
        ("eval={path: a, path: b}", "path: is written twice"),
    ],
)
def test_an_override_that_cannot_be_applied_says_what_to_write(message, override, expected):
    text = message(overrides=(override,))

    assert text.startswith(f"command line: {override}")
    assert expected in text
