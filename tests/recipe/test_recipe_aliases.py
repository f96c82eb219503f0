"""The table of foreign keys against the schema."""

import pytest

from bigpeft.recipe import METHOD_SECTIONS, Recipe
from bigpeft.recipe.aliases import owners, sections
from bigpeft.recipe.foreign import FOREIGN


@pytest.mark.parametrize("key", FOREIGN)
def test_every_foreign_key_leads_to_a_key_that_exists(key):
    ours = FOREIGN[key].ours
    if not ours:
        assert FOREIGN[key].remark
        return

    section, name = ours.split(".")

    assert section in owners(name)


@pytest.mark.parametrize("key", FOREIGN)
def test_no_foreign_key_is_a_key_of_ours(key):
    assert key not in Recipe.model_fields
    assert owners(key) == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("eval: {path: x, metrics: loss}", "metrics: belongs to eval.tasks.NAME"),
        ("eval: {path: x, batch_size: 1}", "is torchtune's name\n  fix: write eval.micro_size"),
        (
            "eval: {tasks: {quiz: {path: x, metric: loss}}}",
            "eval.tasks.quiz.metric: is not a key of eval.tasks\n"
            "  fix: did you mean eval.tasks.quiz.metrics?",
        ),
        ("eval: {tasks: {quiz: {path: x, samples: 1}}}", "fix: write eval.samples"),
    ],
)
def test_a_key_of_the_eval_section_is_led_to_its_place(message, lines, told):
    assert told in message("", f"{lines}\n")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("type: alpaca", "data.type: is axolotl's name\n  fix: write data.format"),
        ("weight: 2", "data.weight: belongs to data.sources"),
        ("truncation_strategy: left", "fix: write data.long_rows (drop, truncate, split or error)"),
        ("val_set_size: 0.1", "fix: write data.held_out (a share of the rows, such as 0.05)"),
    ],
)
def test_a_key_of_the_data_section_is_led_to_its_place(message, lines, told):
    assert told in message("data:\n", f"data:\n  {lines}\n")


def test_a_key_of_a_source_is_led_to_its_place(message):
    source = "  sources: [{path: x, type: alpaca}, {path: y, wegiht: 1}]\n"

    text = message("  path: data/train.jsonl\n", source)

    assert "data.sources[0].type: is axolotl's name\n  fix: write data.format" in text
    assert "data.sources[1].wegiht: is not a key of data.sources" in text
    assert "did you mean data.sources[1].weight?" in text


def test_every_section_is_known_with_its_keys():
    known = sections("ssb")

    assert list(known) == list(Recipe.model_fields)
    assert known["method"] is METHOD_SECTIONS["ssb"]


@pytest.mark.parametrize("place", ["model:\n", "global_size: 8\n"], ids=["top level", "section"])
@pytest.mark.parametrize(
    ("key", "tool", "fix"),
    [
        ("lora_r", "axolotl", "write method.rank"),
        ("cutoff_len", "LLaMA-Factory", "write data.max_length"),
        ("quant_bits", "ms-swift", "write model.weights (nf4 or fp4 are 4-bit)"),
        ("max_steps", "Hugging Face", "write train.steps"),
        ("sample_packing", "axolotl", "write data.packing"),
        (
            "gradient_accumulation_steps",
            "Hugging Face",
            "write batch.global_size (accumulation is derived",
        ),
    ],
)
def test_a_foreign_key_is_told_with_its_tool_and_ours(message, place, key, tool, fix):
    indent = "" if place == "model:\n" else "  "

    text = message(place, f"{indent}{key}: 1\n{place}" if not indent else f"{place}  {key}: 1\n")

    assert f"{key}: is {tool}'s name\n  fix: {fix}" in text


def test_a_whole_foreign_recipe_is_answered_with_our_keys_not_with_missing_sections(small):
    from bigpeft.errors import RecipeError
    from bigpeft.recipe import load_recipe

    small.write_text(
        "base_model: x\nadapter: lora\nlora_r: 8\nmicro_batch_size: 1\nnum_epochs: 1\n"
    )

    with pytest.raises(RecipeError) as caught:
        load_recipe(small)

    assert str(caught.value).startswith("small.yaml:1 base_model: is axolotl's name")
    assert "model: is missing" not in str(caught.value)
