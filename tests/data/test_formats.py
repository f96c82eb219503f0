"""Rows of conversations in the ways people write them. Oracle: the same row as plain messages."""

import json

import pytest

from bigpeft.data import Reader, load_rows, render, tokenise
from bigpeft.data.formats import RowError, formats
from bigpeft.errors import DataError

SHAREGPT, MESSAGES, PREFERENCE = (formats()[n] for n in ("sharegpt", "messages", "preference"))
TALK = [("system", "Be kind."), ("user", "hello"), ("assistant", "world")]
AS_MESSAGES = {"messages": [{"role": role, "content": text} for role, text in TALK]}
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | map(attribute='function') | map(attribute='name') | "
    "join(',') }}</tools>{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}"
    "({{ c.function.arguments.city }}){% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def reader(folder, rows, tokenizer, **options):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Reader(load_rows((str(path),)), tokenizer, **options)


@pytest.mark.parametrize(
    "names",
    [("system", "human", "gpt"), ("system", "user", "assistant"), ("system", "user", "bot")],
)
def test_sharegpt_is_the_same_as_messages(names):
    said = [{"from": name, "value": text} for name, (_, text) in zip(names, TALK, strict=True)]

    assert SHAREGPT.read({"conversations": said}) == MESSAGES.read(AS_MESSAGES)
    assert SHAREGPT.read({"conversations": said[1:], "system": "Be kind."}) == MESSAGES.read(
        AS_MESSAGES
    )


def test_preferences_are_the_prompt_and_the_chosen_answer():
    texts = PREFERENCE.read({"prompt": "hello", "chosen": "world", "rejected": "moon"})
    lists = PREFERENCE.read(
        {
            "chosen": AS_MESSAGES["messages"],
            "rejected": [*AS_MESSAGES["messages"][:-1], {"role": "assistant", "content": "moon"}],
        }
    )

    assert (texts.prompt, texts.completion, texts.turns) == ("hello", "world", ())
    assert [(turn.role, turn.content) for turn in lists.turns] == TALK
    assert lists.turns[-1].learned


def test_preferences_are_trained_on_only_where_they_are_named(tmp_path, tokenizer):
    rows = [{"prompt": "hello", "chosen": "world", "rejected": "moon"}]

    with pytest.raises(DataError, match=r"preferences is not built.*\n.*data.format: preference"):
        tokenise(reader(tmp_path, rows, tokenizer), 99)

    tokens = tokenise(reader(tmp_path, rows, tokenizer, format_name="preference"), 99)
    ids, targets = tokens.row(0)
    assert tokenizer.decode(ids[targets]) == "world<|eos|>"


def test_calls_and_results_of_tools_go_through_the_template(tokenizer):
    row = {
        "messages": [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"function": {"name": "look", "arguments": '{"city": "Lima"}'}, "id": None}
                ],
            },
            {"role": "tool", "content": "warm"},
            {"role": "assistant", "content": "It is warm."},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}],
    }
    read = MESSAGES.read(row)

    ids, targets = render(read.turns, TEMPLATE, tokenizer, tools=read.tools)

    assert tokenizer.decode(ids).startswith("<tools>look</tools><|im_start|>user\nweather?")
    learned = tokenizer.decode([i for i, t in zip(ids, targets, strict=True) if t])
    assert learned == "<call>look(Lima)<|im_end|>It is warm.<|im_end|>"


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_an_answer_of_weight_0_is_not_learned(loss_on, tokenizer):
    row = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "wrong", "weight": 0},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "right", "weight": 1},
        ]
    }

    ids, targets = render(MESSAGES.read(row).turns, None, tokenizer, loss_on)

    learned = tokenizer.decode([i for i, t in zip(ids, targets, strict=True) if t])
    assert "right<|im_end|>" in learned
    assert "wrong" not in learned
    assert ("user" in learned) == (loss_on == "all")


def says(*pairs, **more):
    return {"messages": [{"role": role, "content": text} for role, text in pairs]} | more


BAD = {
    "system not first": (
        says(("user", "a"), ("system", "b"), ("assistant", "c")),
        "has a system message at place 2",
    ),
    "twice the same": (
        says(("user", "a"), ("assistant", "b"), ("assistant", "c")),
        r"has two messages by the assistant in a row \(2 and 3\)",
    ),
    "a result without a call": (
        says(("user", "a"), ("tool", "b"), ("assistant", "c")),
        "has the result of a tool in message 2, which no call comes before",
    ),
    "a half weight": (
        {"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]},
        "has the weight 0.5 in message 1",
    ),
    "nothing learned": (
        {"messages": [{"role": "assistant", "content": "a", "weight": 0}]},
        "has weight 0 in every message by the assistant",
    ),
    "arguments that are no JSON": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "f", "arguments": "{"}}],
                }
            ]
        },
        "text that is not JSON in the arguments of f in message 1",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_conversation_that_is_none_is_told_by_its_message(kind):
    row, why = BAD[kind]

    with pytest.raises(RowError, match=why):
        MESSAGES.read(row)


def test_an_unknown_speaker_is_told():
    with pytest.raises(RowError, match="has the speaker 'alice' in message 1"):
        SHAREGPT.read({"conversations": [{"from": "alice", "value": "a"}]})


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "the same answer in 'chosen' and"),
        ({"prompt": "a", "chosen": "b", "rejected": ["c"]}, "'rejected'"),
    ],
)
def test_a_preference_without_a_difference_is_refused(row, why):
    with pytest.raises(RowError, match=why):
        PREFERENCE.read(row)
