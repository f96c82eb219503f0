"""Which tokens of a conversation are learned.

Oracles: the pieces of a ChatML conversation tokenised one by one; for other templates the text
that must come out when the learned tokens are decoded.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizer

from bigpeft.data import Turn, render
from tests.data.conftest import CHATML, build_tokenizer

TURNS = (
    Turn("system", "be brief"),
    Turn("user", "hello"),
    Turn("assistant", "hello world"),
    Turn("user", "and?"),
    Turn("assistant", "assistant"),  # what the header says, too
)
QUIET = build_tokenizer()


def piecewise(turns, tokenizer, loss_on="assistant"):
    """ChatML ids and targets from separately tokenised pieces."""
    ids, targets = [], []
    last = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
    for index, turn in enumerate(turns):
        head = tokenizer.encode(f"<|im_start|>{turn.role}\n", add_special_tokens=False)
        body = tokenizer.encode(turn.content, add_special_tokens=False)
        body += [tokenizer.convert_tokens_to_ids("<|im_end|>")]
        tail = tokenizer.encode("\n", add_special_tokens=False)
        learned = turn.role == "assistant" and (loss_on == "assistant" or index == last)
        ids += head + body + tail
        targets += [False] * len(head) + [learned] * len(body) + [False] * len(tail)
    return ids, targets


def learned_text(turns, template, tokenizer, loss_on="assistant"):
    """The decoded runs of learned tokens."""
    ids, targets = render(turns, template, tokenizer, loss_on)
    runs, before = [], False
    for token, target in zip(ids, targets, strict=True):
        if target and not before:
            runs.append([])
        if target:
            runs[-1].append(token)
        before = target
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("loss_on", ["assistant", "last"])
def test_chatml_answers_and_their_end_marks_are_learned(tokenizer, loss_on):
    assert render(TURNS, None, tokenizer, loss_on) == piecewise(TURNS, tokenizer, loss_on)


words = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_any_text_is_learned_exactly(pairs):
    turns = [
        turn for ask, answer in pairs for turn in (Turn("user", ask), Turn("assistant", answer))
    ]

    assert render(turns, None, QUIET) == piecewise(turns, QUIET)


@pytest.mark.parametrize("answer", [">", "|>", "<|im_end|>", "end|>", "a>"])
def test_an_answer_that_ends_like_the_end_mark_is_learned_exactly(answer, tokenizer):
    turns = (Turn("user", "0"), Turn("assistant", answer), Turn("user", "and?"))

    assert render(turns, None, tokenizer) == piecewise(turns, tokenizer)


def test_all_learns_every_token_but_the_first_which_nothing_predicts(tokenizer):
    _, targets = render(TURNS, None, tokenizer, "all")

    assert targets == [False] + [True] * (len(targets) - 1)


def test_a_conversation_that_starts_with_the_assistant_has_its_answer_learned(tokenizer):
    turns = (Turn("assistant", "hello"), Turn("user", "yes"))

    assert render(turns, None, tokenizer) == piecewise(turns, tokenizer)


def test_an_empty_answer_is_learned_as_the_end_of_the_turn(tokenizer):
    turns = (Turn("user", "say nothing"), Turn("assistant", ""))

    assert learned_text(turns, None, tokenizer) == ["<|im_end|>"]


NO_PROMPT = CHATML.partition("{% if")[0]
GENERATION_MARKS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}"
    "{{ eos_token }}{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role|capitalize }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
FORGETS_THOUGHTS = (  # like Qwen 3: the last answer has a thinking block, earlier ones lose theirs
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPTS_THOUGHTS = (  # like DeepSeek R1: generation starts in a block that history lacks
    CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
)
REFUSES_PARTS = "{% if messages|length < 5 %}{{ raise_exception('too short') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (NO_PROMPT, ["hello world<|im_end|>", "assistant<|im_end|>"]),
        (GENERATION_MARKS, ["hello world<|im_end|>", "assistant<|im_end|>"]),
        (LLAMA_2, [" hello world<|eos|>", " assistant<|eos|>"]),
        (PLAIN, [" hello world\n", " assistant\n"]),
        (
            FORGETS_THOUGHTS,
            ["hello world<|im_end|>", "<think>\n\n</think>\n\nassistant<|im_end|>"],
        ),
        (PROMPTS_THOUGHTS, ["hello world<|im_end|>", "assistant<|im_end|>"]),
        (REFUSES_PARTS, ["hello world", "assistant<|im_end|>"]),
    ],
    ids=["no prompt", "marks", "llama 2", "plain", "forgets", "prompts thoughts", "refuses parts"],
)
def test_answers_are_found_in_any_template(tokenizer, template, expected):
    assert learned_text(TURNS, template, tokenizer) == expected


def test_the_template_writes_bos_and_nobody_doubles_it(tokenizer):
    ids, _ = render(TURNS, LLAMA_2, tokenizer)

    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for m in %}", "Expected an expression"),
        ("{{ messages[0].thought.depth }}", "has no attribute"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out"),
    ],
)
def test_a_template_that_fails_says_why(tokenizer, template, reason):
    with pytest.raises(ValueError, match=reason):
        render(TURNS, template, tokenizer)


def test_a_conversation_without_any_template_is_refused(tokenizer):
    bare = build_tokenizer()
    bare.chat_template = None

    with pytest.raises(ValueError, match="no chat template"):
        render(TURNS, None, bare)


class Letters(PreTrainedTokenizer):
    """A tokenizer without offsets: every letter is a token."""

    vocab_size = 0x110000

    def get_vocab(self):
        return {}

    def _tokenize(self, text, **kwargs):
        return list(text)

    def _convert_token_to_id(self, token):
        return ord(token)

    def _convert_id_to_token(self, index):
        return chr(index)


def test_a_tokenizer_without_offsets_learns_the_same_text():
    slow = Letters(pad_token="\x00")

    assert not slow.is_fast
    ids, targets = render(TURNS, CHATML, slow)
    learned = "".join(chr(i) for i, target in zip(ids, targets, strict=True) if target)
    assert learned == "hello world<|im_end|>assistant<|im_end|>"
