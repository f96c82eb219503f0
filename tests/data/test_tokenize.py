"""Rows to tokens. Oracles: texts tokenised by hand, and the place of each unusable row."""

import json
from dataclasses import replace

import pytest
import torch

from bigpeft.data import Reader, Tokens, check_vocabulary, detect, formats, load_rows, tokenise
from bigpeft.data.formats import Turn
from bigpeft.errors import DataError


def reader(folder, rows, tokenizer, **options):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Reader(load_rows((str(path),)), tokenizer, **options)


def answer(*pairs):
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (("messages", "id"), "messages"),
        (("completion", "prompt"), "prompt_completion"),
        (("instruction", "input", "output"), "instruction"),
        (("text",), "text"),
    ],
)
def test_the_format_is_told_from_the_columns(columns, name):
    assert detect(columns) == name


def test_columns_of_no_format_list_the_formats():
    with pytest.raises(DataError, match=r"(?s)question, answer.*messages: messages.*text: text"):
        detect(("question", "answer"))


def test_an_instruction_becomes_one_exchange():
    read = formats()["instruction"].read
    row = {"instruction": "Add.", "input": "1, 2", "output": "3"}

    assert read(row).turns == (Turn("user", "Add.\n\n1, 2"), Turn("assistant", "3"))
    for context in ({}, {"input": ""}, {"input": None}):
        short = read({"instruction": "Add.", "output": "3"} | context)
        assert short.turns[0] == Turn("user", "Add.")


def test_a_prompt_is_joined_to_its_completion_with_bos_once_and_a_learned_eos(tmp_path, tokenizer):
    rows = [{"prompt": "hello", "completion": " world"}]
    plain = tokenizer.encode("hello world", add_special_tokens=False)
    prompt = tokenizer.encode("hello", add_special_tokens=False)

    ids, targets = tokenise(reader(tmp_path, rows, tokenizer), 99).row(0)

    assert ids.tolist() == [tokenizer.bos_token_id, *plain, tokenizer.eos_token_id]
    assert targets.tolist() == [False] * (1 + len(prompt)) + [True] * (len(plain) - len(prompt) + 1)


def test_special_tokens_that_the_text_spells_out_are_not_doubled(tmp_path, tokenizer):
    rows = [{"prompt": "<|bos|>hello", "completion": " world<|eos|>"}]

    ids, _ = tokenise(reader(tmp_path, rows, tokenizer), 99).row(0)

    assert ids.tolist().count(tokenizer.bos_token_id) == 1
    assert ids.tolist().count(tokenizer.eos_token_id) == 1


def test_text_is_learned_from_the_first_token_after_bos(tmp_path, tokenizer):
    _, targets = tokenise(reader(tmp_path, [{"text": "hello world"}], tokenizer), 99).row(0)

    assert targets.tolist() == [False] + [True] * (len(targets) - 1)


def test_columns_are_mapped_to_the_formats_names(tmp_path, tokenizer):
    rows = [{"question": "hello", "text": "noise", "answer": "world"}]
    mapping = {"prompt": "question", "completion": "answer"}

    mapped = tokenise(reader(tmp_path, rows, tokenizer, columns=mapping), 99)
    plain = [{"prompt": "hello", "completion": "world"}]

    assert mapped.ids.equal(tokenise(reader(tmp_path, plain, tokenizer), 99).ids)


def test_rows_that_are_too_long_are_dropped_and_counted_or_cut(tmp_path, tokenizer):
    rows = [
        {"prompt": "a", "completion": "b"},
        {"prompt": "a", "completion": "b" * 50},
        {"prompt": "a" * 50, "completion": "b"},
    ]

    dropped = tokenise(reader(tmp_path, rows, tokenizer), 10, "drop")
    cut = tokenise(reader(tmp_path, rows, tokenizer), 10, "truncate")

    assert (len(dropped), dropped.dropped) == (1, 2)
    assert (len(cut), cut.dropped) == (2, 1)
    assert (dropped.read, dropped.truncated, dropped.split) == (3, 0, 0)
    assert (cut.read, cut.truncated, cut.split) == (3, 1, 0)
    assert len(cut.row(1)[0]) == 10
    with pytest.raises(DataError, match=r"row 2: has 53 tokens, over data\.max_length 10"):
        tokenise(reader(tmp_path, rows, tokenizer), 10, "error")
    with pytest.raises(DataError, match=r"rows\.jsonl: holds no row with a target within 1 tokens"):
        tokenise(reader(tmp_path, rows, tokenizer), 1)


GOOD = answer(("user", "hello"), ("assistant", "world"))
BAD = {
    "no column": ({"chat": []}, "has no column 'messages'; it has chat"),
    "no messages": ({"messages": []}, "needs a list of messages"),
    "text": ({"messages": "hello"}, "needs a list of messages"),
    "role": (answer(("human", "hello")), "has the role 'human' in message 1"),
    "null": (answer(("user", "a"), ("assistant", None)), "nothing (null) in the content of mess"),
    "list": (answer(("user", ["a"]), ("assistant", "b")), "holds a list in the content of mess"),
    "no answer": (answer(("user", "hello")), "no message by the assistant"),
    "tool calls": (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
        "has a tool call without a function's name in message 1",
    ),
    "surrogate": (answer(("user", "\ud800"), ("assistant", "b")), "half a character"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_unusable_row_is_one_message_with_file_row_and_fix(tmp_path, tokenizer, kind):
    row, why = BAD[kind]

    with pytest.raises(DataError) as caught:
        tokenise(reader(tmp_path, [GOOD, GOOD, row], tokenizer), 99)

    assert f"{tmp_path}/rows.jsonl row 3: " in str(caught.value)
    assert why in str(caught.value)
    assert "\n  fix: " in str(caught.value)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "completion": 7}, "row 1: holds a int in column 'completion'"),
        ({"prompt": None, "completion": "a"}, r"row 1: holds nothing \(null\) in column 'prompt'"),
        ({"instruction": "a", "output": ["b"]}, "row 1: holds a list in column 'output'"),
        ({"text": {}}, "row 1: holds a dict in column 'text'"),
    ],
)
def test_a_column_that_holds_no_text_is_named(tmp_path, tokenizer, row, why):
    with pytest.raises(DataError, match=why):
        tokenise(reader(tmp_path, [row], tokenizer), 99)


def test_a_template_error_names_the_row(tmp_path, tokenizer):
    template = "{{ raise_exception('roles must alternate') }}"

    with pytest.raises(DataError, match=r"row 1: does not go .*roles must alternate"):
        tokenise(reader(tmp_path, [GOOD], tokenizer, template=template), 99)


def test_a_row_without_a_target_token_is_named(tmp_path, tokenizer):
    options = {"template": "{% for m in messages %}x{% endfor %}", "loss_on": "all"}
    row = answer(("assistant", "hello"))

    with pytest.raises(DataError, match="row 1: has no token to learn"):
        tokenise(reader(tmp_path, [row], tokenizer, **options), 99)


def test_a_mapping_to_a_column_that_the_format_lacks_is_refused(tmp_path, tokenizer):
    with pytest.raises(DataError, match=r"data\.columns\.answer: is no column of the format"):
        tokenise(reader(tmp_path, [GOOD], tokenizer, columns={"answer": "x"}), 99)


def test_tokens_survive_their_file(tmp_path):
    rows = [(torch.arange(3, dtype=torch.int32), torch.tensor([False, True, True]))]
    tokens = replace(Tokens.of(rows, 2), read=9, truncated=4, split=1)

    tokens.save(tmp_path / "tokens.safetensors")
    loaded = Tokens.load(tmp_path / "tokens.safetensors")

    assert len(loaded) == 1
    assert (loaded.read, loaded.dropped, loaded.truncated, loaded.split) == (9, 2, 4, 1)
    assert all(a.equal(b) for a, b in zip(loaded.row(0), tokens.row(0), strict=True))


def test_a_token_beyond_the_models_vocabulary_is_refused():
    tokens = Tokens.of([(torch.tensor([1, 9], dtype=torch.int32), torch.tensor([False, True]))])

    check_vocabulary(tokens, 10)
    with pytest.raises(DataError, match="token id 9, the model's vocabulary ends at 8"):
        check_vocabulary(tokens, 9)
