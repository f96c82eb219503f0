"""Bare SentencePiece models. Oracle: SentencePiece itself, which wrote them."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from bigpeft.data import load_tokenizer
from bigpeft.errors import FileError

LINES = [
    "The quick brown fox doesn't jump over 13 lazy dogs, it naps.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy; Größe, naïveté, œuvre, Łódź, İstanbul.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "نص حكيم له سر قاطع وذو شأن عظيم، مكتوب على ثوب أخضر ١٢٣.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश।",
    "いろはにほへと ちりぬるを。漢字とカタカナ、４２。",  # noqa: RUF001
    "天地玄黃宇宙洪荒日月盈昃辰宿列張",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "e\u0301 and é, a\u030a and å, \u200fmarks\u200e, soft\u00adhyphen, no\u00a0break",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 ❤️ 😀😀",
    "  two before,  two between, two behind  ",
    "tabs\tand\nlines\r\nand  \n\n  both",
    "1234567890 3.14159 -42 1e-9 ½ Ⅷ",
    "def f(x):\n    return x**2  # code",
    "<s> </s> <unk> [INST] are text here",
    "▁ is no space",
]
AS_LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def train(folder, **options):
    """A small model of this kind, with nothing beside it."""
    (folder / "text").write_text("\n".join([*LINES, *"".join(LINES).split()] * 20))
    SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=900,
        hard_vocab_limit=False,
        character_coverage=0.98,
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What is loaded from a model as Llama's are, and SentencePiece's own."""
    folder = tmp_path_factory.mktemp("bpe")
    oracle = train(folder, model_type="bpe", split_digits=True, **AS_LLAMA)
    return load_tokenizer(str(folder)), oracle


def plain(line):
    """SentencePiece takes no text for a special token, transformers does: both are right."""
    return not any(mark in line for mark in ("<s>", "</s>", "<unk>"))


@pytest.mark.parametrize("line", [line for line in LINES if plain(line)])
def test_every_script_has_sentencepieces_tokens_and_comes_back(line, pair):
    loaded, oracle = pair

    ids = loaded.encode(line, add_special_tokens=False)

    assert ids == oracle.encode(line)
    assert loaded.decode(ids) == oracle.decode(ids)


@settings(max_examples=300, deadline=None)
@given(st.text().filter(plain))
def test_any_text_has_sentencepieces_tokens(pair, text):
    loaded, oracle = pair

    assert loaded.encode(text, add_special_tokens=False) == oracle.encode(text)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_model_that_transformers_would_read_differently_is_refused(kind, tmp_path):
    train(tmp_path, model_type=kind)  # joins spaces, which Llama's tokenizer class does not

    with pytest.raises(FileError, match="reads differently from SentencePiece"):
        load_tokenizer(str(tmp_path))


def test_a_unigram_model_is_refused_or_has_its_own_tokens(tmp_path):
    oracle = train(tmp_path, model_type="unigram", **AS_LLAMA)

    with suppress(FileError):
        loaded = load_tokenizer(str(tmp_path))
        for line in filter(plain, LINES):
            assert loaded.encode(line, add_special_tokens=False) == oracle.encode(line)
