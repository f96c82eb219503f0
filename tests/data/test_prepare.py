"""One process tokenises, another waits. Oracle: what the builder made, or why it could not."""

import os
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from bigpeft.data import Tokens, fingerprint_of, load_tokenizer, prepare
from bigpeft.errors import DataError, FileError
from tests.data.conftest import build_tokenizer
from tests.worlds import processes

MARK = "f" * 64
FILE = "train-ffffffffffffffff.safetensors"


@pytest.fixture(scope="module")
def other_process():
    with ProcessPoolExecutor(1, mp_context=processes()) as pool:
        pool.submit(os.getpid).result()
        yield pool


def made(first=1):
    ids = torch.arange(first, first + 4, dtype=torch.int32)
    return Tokens.of([(ids, torch.tensor([False, True, True, True]))])


def never():
    raise AssertionError("must not be built")


def wait_for(folder, attempt):
    """What a rank that does not write gets: (ids, process) or the error's parts."""
    try:
        tokens = prepare(folder, False, never, MARK, "train", attempt)
    except DataError as error:
        return error.what, error.why, error.fix
    return tokens.ids.tolist(), os.getpid()


def test_the_others_wait_for_the_writer_and_read_its_tokens(tmp_path, other_process):
    waiting = other_process.submit(wait_for, tmp_path / "data", "1")
    time.sleep(0.5)
    assert not waiting.done()

    tokens = prepare(tmp_path / "data", True, made, MARK, "train", "1")

    ids, process = waiting.result(timeout=30)
    assert ids == tokens.ids.tolist()
    assert process != os.getpid()
    assert [file.name for file in (tmp_path / "data").iterdir()] == [FILE]


def test_the_others_fail_with_the_writers_message(tmp_path, other_process):
    waiting = other_process.submit(wait_for, tmp_path, "2")

    def broken():
        raise DataError("rows.jsonl row 3", "has no token to learn", "take it out")

    with pytest.raises(DataError, match="row 3"):
        prepare(tmp_path, True, broken, MARK, "train", "2")

    assert waiting.result(timeout=30) == (
        "rows.jsonl row 3",
        "has no token to learn",
        "take it out",
    )


def test_a_bug_on_the_writer_does_not_leave_the_others_waiting(tmp_path, other_process):
    waiting = other_process.submit(wait_for, tmp_path, "3")

    with pytest.raises(ZeroDivisionError):
        prepare(tmp_path, True, lambda: 1 // 0, MARK, "train", "3")

    assert "ZeroDivisionError" in waiting.result(timeout=30)[1]


def test_the_note_of_an_earlier_launch_is_not_believed(tmp_path, other_process):
    with pytest.raises(ZeroDivisionError):
        prepare(tmp_path, True, lambda: 1 // 0, MARK, "train", "earlier")

    waiting = other_process.submit(wait_for, tmp_path, "now")
    time.sleep(0.5)
    prepare(tmp_path, True, made, MARK, "train", "now")

    assert waiting.result(timeout=30)[0] == made().ids.tolist()


def test_tokens_made_before_are_used_again(tmp_path):
    prepare(tmp_path, True, made, MARK, "train", "1")

    assert prepare(tmp_path, True, never, MARK, "train", "2").ids.equal(made().ids)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 9, None])
def test_a_damaged_file_is_built_anew(tmp_path, damage):
    path = tmp_path / FILE
    made().save(path)
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)

    tokens = prepare(tmp_path, True, lambda: made(5), MARK, "train", "1")

    assert tokens.ids.equal(made(5).ids)
    assert Tokens.load(path).ids.equal(made(5).ids)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(FileError, match="file/data: cannot be written"):
        prepare(tmp_path / "file" / "data", True, made, MARK, "train", "1")


def test_the_fingerprint_follows_contents_options_and_tokenizer(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages }}")

    def mark(**options):
        return fingerprint_of((str(path),), **options)

    first = mark(max_length=8)
    assert mark(max_length=8) == first
    other = build_tokenizer()
    other.add_tokens(["<|more|>"])
    templated = mark(template=str(template))
    template.write_text("{{ messages[0] }}")
    marks = [first, mark(max_length=9), mark(tokenizer=tokenizer), mark(tokenizer=other)]
    marks += [templated, mark(template=str(template))]
    path.write_text('{"text": "b"}\n')
    marks.append(mark(max_length=8))
    assert len(set(marks)) == len(marks)
    path.touch()
    assert mark(max_length=8) == marks[-1]


def test_a_saved_tokenizer_loads_and_pads_with_eos_without_a_new_token(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path)

    loaded = load_tokenizer(str(tmp_path))

    assert loaded.pad_token_id == loaded.eos_token_id
    assert len(loaded) == len(tokenizer)
    assert loaded("hello").input_ids == tokenizer("hello").input_ids


@pytest.mark.parametrize("kind", ["missing", "empty", "broken"])
def test_a_tokenizer_that_cannot_be_read_names_its_folder(tmp_path, kind):
    folder = tmp_path / kind
    if kind != "missing":
        folder.mkdir()
    if kind == "broken":
        (folder / "tokenizer.json").write_text("{")

    with pytest.raises(FileError, match=str(folder)):
        load_tokenizer(str(folder))
