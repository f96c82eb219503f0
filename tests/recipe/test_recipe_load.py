"""Files into recipes and back; the oracle of `dump_recipe` is `load_recipe`."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigpeft.errors import FileError, RecipeError, UserError
from bigpeft.recipe import METHOD_SECTIONS, Recipe, dump_recipe, load_recipe

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "1e4",
        "1.5",
        "null",
        "~",
        "no",
        "2024-01-01",
        "12:30",
        "=",
        "<<",
        "0x1f",
        "-",
        "{{ x }}\n",
        "a\x85b\u2028c",
        "# a",
    ]
)
counts = st.integers(1, 10**9)
shares = st.floats(0, 1)
positives = st.floats(1e-300, 1e300)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def section(needed=None, **optional):
    return st.fixed_dictionaries(needed or {}, optional=optional)


recipes = st.fixed_dictionaries(
    {
        "model": section(
            {"name": words},
            config=st.dictionaries(words, plain, max_size=3),
            random=st.just(True),
            block=st.sampled_from([32, 64, 4096]),
        ).filter(lambda model: "config" not in model or model.get("random")),
        "method": section(
            {"name": st.sampled_from(sorted(METHOD_SECTIONS))},
            target_modules=words | st.lists(words),
            overrides=st.dictionaries(words, st.dictionaries(words, plain, max_size=2), max_size=2),
        ),
        "data": section(
            {"path": words | st.lists(words)}, template=words, limit=st.none() | counts
        ),
        "batch": section({"global_size": counts}, micro_size=counts),
        "run": section({"folder": words}, seed=st.integers(0, 2**64)),
        "train": st.fixed_dictionaries({"steps": counts})
        | st.fixed_dictionaries({"epochs": positives}),
    },
    optional={
        "eval": st.none() | section({"path": words}, choices=st.lists(words)),
        "optimizer": section(learning_rate=positives, betas=st.tuples(shares, shares)),
        "sharding": section(group=st.sampled_from(["world", "node"]) | counts),
    },
)


@settings(max_examples=150, deadline=None)
@given(raw=recipes)
def test_a_dumped_recipe_loads_back_equal(raw, tmp_path_factory):
    recipe = Recipe.model_validate(raw)
    path = tmp_path_factory.mktemp("dump") / "recipe.yaml"

    path.write_text(dump_recipe(recipe), encoding="utf-8", newline="")

    assert load_recipe(path) == recipe


def test_a_dump_has_the_sections_in_order_and_the_name_of_the_method_first(small):
    lines = dump_recipe(load_recipe(small)).splitlines()

    assert [line for line in lines if line[0] != " "] == [
        f"{name}: null" if name in ("eval", "mpc") else f"{name}:" for name in Recipe.model_fields
    ]
    assert lines[lines.index("method:") + 1] == "  name: lora"


@settings(max_examples=150, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8"), max_size=60)
    | st.text("ab:-[]{}&*!#'\"\n =<1e.", max_size=40)
)
def test_any_text_is_a_recipe_or_a_mistake_that_a_user_can_mend(text, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "recipe.yaml"
    path.write_text(text, encoding="utf-8", newline="")

    with pytest.raises(UserError):
        load_recipe(path)


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "+1e-4", "1.0e-4", ".1e-3", "0.0001"])
def test_a_number_with_an_exponent_is_a_number_everywhere(small, number):
    small.write_text(small.read_text() + f"optimizer: {{learning_rate: {number}}}\n")
    config = ["model.random=true", f"model.config.rms_norm_eps={number}"]

    recipe = load_recipe(small, config)

    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.model.config == {"rms_norm_eps": 1e-4}


def test_a_date_stays_text(small):
    recipe = load_recipe(small, ["run.folder=2024-01-31"])

    assert recipe.run.folder == "2024-01-31"


def test_a_file_with_a_byte_order_mark_loads(small):
    small.write_bytes(b"\xef\xbb\xbf" + small.read_bytes())

    assert load_recipe(small).run.folder == "runs/small"


def test_anchors_and_merge_keys_are_read_as_yaml_means_them(small):
    text = small.read_text().replace("data:\n", "data: &rows\n")
    small.write_text(text + "eval:\n  <<: *rows\n  limit: 4\n")

    recipe = load_recipe(small, ["eval.path=other.jsonl"])

    assert (recipe.data.path, recipe.eval.path, recipe.eval.limit) == (
        "data/train.jsonl",
        "other.jsonl",
        4,
    )


def test_an_override_below_an_alias_leaves_the_anchor_alone(small):
    text = small.read_text().replace("data:\n", "data: &rows\n")
    small.write_text(text + "eval: *rows\n")

    recipe = load_recipe(small, ["eval.path=other.jsonl"])

    assert recipe.data.path == "data/train.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: is empty\n  fix: write the sections model, method, data, batch, run, train"),
        ("# only a comment\n", "x.yaml: is empty"),
        ("- a\n", 'x.yaml: holds ["a"], not sections\n  fix: write sections'),
        ("lora", 'x.yaml: holds "lora", not sections'),
        (
            "batch: [1\n",
            "x.yaml:2: is not YAML: expected ',' or ']', but got the end\n  fix: look at",
        ),
        ("a: 1\n\tb: 2\n", "x.yaml:2: is not YAML: found character '\\t' that"),
        ("a: 1\n\tb: 2\n", "fix: indent with spaces, not tabs"),
        ("a: 1\n--- \nb: 2\n", "x.yaml:2: is not YAML: but found another document"),
        (
            "batch:\n  a: 1\n  b: 1\n  a: 2\n",
            "x.yaml:4 batch.a: is written twice, in line 2 and in line 4",
        ),
        (
            "batch: {}\nbatch: {}\n",
            "x.yaml:2 batch: is written twice, in line 1 and in line 2\n  fix: delete",
        ),
        (
            "a:\n  b: !!python/name:os.system x\n",
            "x.yaml:2 a.b: has the tag !!python/name:os.system",
        ),
        (
            "a: &x [*x]\n",
            "x.yaml:1 a[0]: contains itself through an alias\n  fix: write the value out",
        ),
        ("a: 1\nb: \x01", "x.yaml:2: holds the control character #x01\n  fix: delete it"),
        (f"a: {'9' * 5000}", "x.yaml: holds a value that cannot be read"),
        ("[" * 3000, "x.yaml: is nested too deeply"),
    ],
)
def test_a_file_that_holds_no_sections_is_one_mistake_with_its_line(
    tmp_path, monkeypatch, text, expected
):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(RecipeError) as caught:
        load_recipe(Path("x.yaml"))

    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("smal.yaml", "smal.yaml: does not exist\n  fix: did you mean small.yaml?"),
        ("other/none.yaml", "other/none.yaml: does not exist\n  fix: check the path"),
        (".", ".: is a folder\n  fix: name a file in it, such as latin.yaml"),
        ("latin.yaml", "latin.yaml: is not UTF-8 text (byte 3)\n  fix: save it again as UTF-8"),
        ("small.yaml/x", "small.yaml/x: cannot be read: Not a directory\n  fix: check the path"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_fix(small, path, expected):
    Path("latin.yaml").write_bytes(b"a: \xe9")

    with pytest.raises(FileError) as caught:
        load_recipe(Path(path))

    assert expected in str(caught.value)
