"""What the schema refuses, in words: place, key, value, reason, fix."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigpeft.errors import RecipeError
from bigpeft.recipe import Recipe, load_recipe
from bigpeft.recipe.explain import Sources, explain

IN_FILE = {
    "a misspelt key": (
        "global_size: 8",
        "global_size: 8\n  micro_sise: 2",
        "small.yaml:11 batch.micro_sise: is not a key of batch\n"
        "  fix: did you mean batch.micro_size?",
    ),
    "a misspelt needed key, told once": (
        "global_size",
        "global_sise",
        "small.yaml:10 batch.global_sise: is not a key of batch\n"
        "  fix: did you mean batch.global_size?",
    ),
    "a misspelt section": (
        "train:",
        "trian:",
        "small.yaml:13 trian: is not a section\n  fix: did you mean train?",
    ),
    "an unknown section": (
        "train:",
        "wandb: {project: x}\ntrain:",
        "small.yaml:13 wandb: is not a section\n"
        "  fix: leave it out, or write one of model, method, mpc, data,",
    ),
    "a key of another section": (
        "global_size: 8",
        "global_size: 8\n  rank: 2",
        "small.yaml:11 batch.rank: belongs to method\n  fix: write method.rank",
    ),
    "a key of several other sections": (
        "model:\n",
        "name: x\nmodel:\n",
        "small.yaml:1 name: belongs to model, method, optimizer or tracking\n"
        "  fix: write model.name, method.name, optimizer.name or",
    ),
    "a misspelt key of another section": (
        "steps: 10",
        "steps: 10\n  learning_rat: 1",
        "small.yaml:15 train.learning_rat: is not a key of train\n"
        "  fix: did you mean optimizer.learning_rate?",
    ),
    "a misspelt method": (
        "name: lora",
        "name: lroa",
        "fix: did you mean lora?",
    ),
    "a misspelt method, what it holds": (
        "name: lora",
        "name: lroa",
        'small.yaml:4 method.name: "lroa" is not one of ',
    ),
    "a method of another tool": (
        "name: lora",
        "name: qlora",
        "fix: write lora: weights are 4-bit unless model.weights is none",
    ),
    "no name of a method": (
        "name: lora",
        "dropout: 0.1",
        "method.name: is missing\n  fix: add method.name: ",
    ),
    "an option of another method": (
        "name: lora",
        "name: ssb",
        "small.yaml:5 method.rank: is not an option of ssb\n"
        "  fix: leave it out, or choose a method that has it: ",
    ),
    "a key called like a method": (
        "rank: 16",
        "rank: x\n  lora: {rank: 2}",
        'small.yaml:5 method.rank: "x" is not a whole number',
    ),
    "a missing key": (
        "global_size: 8",
        "micro_size: 8",
        "small.yaml:9 batch.global_size: is missing\n"
        "  fix: add batch.global_size (rows per optimizer step, all",
    ),
    "a missing section": (
        "run:\n  folder: runs/small\n",
        "",
        "small.yaml run: is missing\n  fix: add run, with run.folder",
    ),
    "an empty needed section": (
        "  global_size: 8\n",
        "",
        "small.yaml:9 batch: is empty\n  fix: write keys under it, with batch.global_size",
    ),
    "an empty section": (
        "train:",
        "optimizer:\ntrain:",
        "small.yaml:13 optimizer: is empty\n  fix: write keys under it, or delete it",
    ),
    "a name in place of a section": (
        "\n  name: models/tiny",
        " models/tiny",
        'small.yaml:1 model: "models/tiny" is not a section\n'
        "  fix: write model: {name: models/tiny}",
    ),
    "a list in place of a section": (
        "\n  global_size: 8",
        " [8]",
        "small.yaml:9 batch: [8] is not a section\n"
        "  fix: write keys under it, with batch.global_size",
    ),
    "text in place of a whole number": (
        "steps: 10",
        "steps: many",
        'small.yaml:14 train.steps: "many" is not a whole number\n'
        "  fix: write a whole number (optimizer steps)",
    ),
    "a fraction in place of a whole number": (
        "steps: 10",
        "steps: 1.5",
        "small.yaml:14 train.steps: 1.5 is not a whole number",
    ),
    "a number in place of text": (
        "folder: runs/small",
        "folder: 7",
        "small.yaml:12 run.folder: 7 is not text\n"
        "  fix: put it in quotes, to make it text (run folder",
    ),
    "a mapping in place of text or a list": (
        "path: data/train.jsonl",
        "path: {a: 1}",
        'small.yaml:8 data.path: {"a": 1} is not text or a list\n'
        "  fix: write text or a list (file, folder,",
    ),
    "one wrong item of a list": (
        "path: data/train.jsonl",
        "path:\n    - a\n    - 7",
        "small.yaml:8 data.path[1]: 7 is not text",
    ),
    "a name that is no key": (
        "model:\n",
        "1: 2\nmodel:\n",
        "small.yaml:1 1: is not a name\n  fix: write a key that is a word",
    ),
    "weights without a source": (
        "name: models/tiny",
        "block: 64",
        "small.yaml:1 model: has no source",
    ),
}

ON_THE_COMMAND_LINE = {
    "batch.micro_sise=2": "is not a key of batch\n  fix: did you mean batch.micro_size?",
    "batch.rank=2": "belongs to method\n  fix: write method.rank",
    "trian.seed=2": "is not a section\n  fix: did you mean train?",
    "optimizer.schedule=cosin": '"cosin" is not one of constant, linear, cosine, wsd\n'
    "  fix: did you mean cosine?",
    "optimizer.schedule=x": "is not one of constant, linear, cosine, wsd\n"
    "  fix: write one of these (course",
    "model.weights=nf5": '"nf5" is not one of fp4, nf4, none\n  fix: did you mean',
    "optimizer.learning_rate=-1e-4": "-0.0001 is not a number above 0\n"
    "  fix: write a number above 0 (peak",
    "optimizer.epsilon=null": "null is not a number\n"
    "  fix: write a number (added to the root of the second moment), or leave the key out for the "
    "default, 1e-08",
    "optimizer.weight_decay=-1": "-1 is not a number of at least 0",
    "optimizer.warmup_ratio=1.5": "1.5 is not a number between 0 and 1\n"
    "  fix: write a number between 0 and 1",
    "optimizer.betas=[0.9]": "[0.9] does not hold 2 values\n"
    "  fix: write a list of 2 (decay of the two moments)",
    "optimizer.betas=[0.9, 0.9, 1]": "[0.9, 0.9, 1] does not hold 2 values",
    "train.steps=0": "0 is not a whole number above 0",
    "sharding.group=rack": '"rack" is not auto, world, node or a whole number\n'
    "  fix: write auto, world, node or a whole",
    "sharding.group=0": "0 is not auto, world, node or a whole number above 0",
    "model.nested=maybe": '"maybe" is not true or false\n  fix: write true or false (quantise',
    "data.columns=x": '"x" is not a mapping of keys to values',
    "eval.limit=2": "(eval): names no rows\n  fix: add path or tasks, or data.held_out",
    "method.name=[lora]": '["lora"] is not one of ',
    "method=lora": '"lora" is not a section\n  fix: write method: {name: lora}',
}


@pytest.mark.parametrize(("old", "new", "expected"), IN_FILE.values(), ids=IN_FILE)
def test_a_mistake_in_the_file_names_line_key_reason_and_fix(message, old, new, expected):
    assert expected in message(old, new)


@pytest.mark.parametrize(
    ("override", "expected"), ON_THE_COMMAND_LINE.items(), ids=ON_THE_COMMAND_LINE
)
def test_a_mistake_on_the_command_line_repeats_the_override(message, override, expected):
    text = message(overrides=(override,))

    assert text.startswith(f"command line: {override}")
    assert expected in text


def test_a_misspelt_key_is_not_also_missing(message):
    assert "missing" not in message("global_size", "global_sise")


def test_a_key_below_an_override_is_named_after_it(message):
    text = message(overrides=("batch={global_size: 8, micro_sise: 2}",))

    assert text.startswith(
        "command line: batch={global_size: 8, micro_sise: 2} (batch.micro_sise): "
    )


def test_an_override_hides_the_line_of_what_it_replaces(message):
    text = message(overrides=("batch={global_size: none}",))

    assert text.startswith("command line: batch={global_size: none} (batch.global_size): ")


def test_a_wrong_item_of_a_list_is_one_mistake(message):
    text = message("path: data/train.jsonl", "path: [a, 7]")

    assert text.count("fix:") == 1


def test_a_mistake_behind_an_alias_has_the_line_of_its_text(message):
    text = message("global_size: 8", "global_size: 8\neval: {path: &no 7}\noptimizer: {name: *no}")

    assert "small.yaml:11 eval.path: 7 is not text" in text
    assert "small.yaml:12 optimizer.name: 7 is not one of adamw" in text


def test_several_mistakes_are_told_in_the_order_of_the_file_missing_keys_last(message):
    text = message("global_size: 8\n", "micro_size: x\n  rank: 2\n", overrides=("train.steps=0",))

    whats = [paragraph.split(": ")[0] for paragraph in text.split("\n\n")]
    assert whats == [
        "command line",
        "small.yaml:10 batch.micro_size",
        "small.yaml:11 batch.rank",
        "small.yaml:9 batch.global_size",
    ]


def test_of_many_mistakes_five_are_told_and_the_rest_counted(message):
    text = message("steps: 10", "\n".join(["steps: 10", *(f"  wrong{i}: 1" for i in range(12))]))

    assert text.count("fix:") == 5
    assert text.endswith("\n\nand 7 more")


def test_a_long_value_is_cut(message):
    text = message("steps: 10", f"steps: {'x' * 500}")

    assert len(text) < 200


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(leaves, inner, max_size=3),
    max_leaves=5,
)
sections = {
    name: st.dictionaries(
        st.sampled_from(["name", "path", "rank", "steps", "betas", "overrides", "x"]) | leaves,
        values | st.sampled_from(["lora", "ssb"]),
        max_size=4,
    )
    | values
    for name in Recipe.model_fields
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(raw=st.fixed_dictionaries({}, optional=sections))
def test_any_refusal_is_told_without_the_words_of_the_schema_library(raw):
    try:
        Recipe.model_validate(raw)
    except ValueError as error:
        text = str(explain(error, raw, Sources("x.yaml", {})))

        assert text.startswith("x.yaml")
        assert "\n  fix: " in text
        for jargon in (
            "pydantic",
            "http",
            "Input should",
            "Field required",
            "constrained",
            "tuple[",
        ):
            assert jargon not in text


def test_the_error_is_one_recipe_error_with_the_parts_of_the_first_mistake(small):
    with pytest.raises(RecipeError) as caught:
        load_recipe(small, ["train.steps=0"])

    assert caught.value.what == "command line: train.steps=0"
    assert caught.value.why == "0 is not a whole number above 0"
