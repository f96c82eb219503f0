"""Rows that cannot be used, and rows that are too long. Oracle: the file without them."""

import gzip
import json
import time

import pytest

from bigpeft.data import Reader, load_rows, tokenise
from bigpeft.errors import DataError


def write(path, lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def reader(path, tokenizer, **options):
    return Reader(load_rows((str(path),)), tokenizer, **options)


def text(words):
    return json.dumps({"text": words}).encode()


GOOD = [text("hello world"), text("it is warm")]
BAD_LINES = {
    "no JSON": (b'{"text": ', "line 2", "is not JSON"),
    "no UTF-8": (b'{"text": "\xff"}', "line 2", "is not UTF-8"),
    "no object": (b"[1]", "line 2", "is a JSON list"),
    "no column": (b'{"words": "a"}', "row 2", "has no column 'text'"),
    "no text": (b'{"text": 3}', "row 2", "holds a int in column 'text'"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_row_ends_the_reading_with_its_place_or_is_skipped(kind, tmp_path, tokenizer):
    line, where, why = BAD_LINES[kind]
    path = write(tmp_path / "rows.jsonl", [GOOD[0], line, GOOD[1]])
    expected = tokenise(reader(write(tmp_path / "good.jsonl", GOOD), tokenizer), 99)

    with pytest.raises(DataError, match=rf"rows.jsonl {where}: {why}"):
        tokenise(reader(path, tokenizer, format_name="text"), 99)

    found = tokenise(reader(path, tokenizer, format_name="text"), 99, on_bad_row="skip")
    assert found.ids.equal(expected.ids)
    assert (found.read, found.skipped.count) == (3, 1)
    ((what, reason),) = found.skipped.told
    assert f"{what}: {reason}".startswith(f"{tmp_path}/rows.jsonl {where}: {why}")


def test_a_file_of_bad_rows_alone_is_refused_with_the_first_reason(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", [b'{"text": 3}'] * 4)

    with pytest.raises(DataError, match=r"4 were skipped, the first because .*row 1 holds a int"):
        tokenise(reader(path, tokenizer), 99, on_bad_row="skip")


def test_ids_that_come_twice_are_told(tmp_path, tokenizer):
    rows = [{"id": 7, "text": "a"}, {"id": "7", "text": "b"}, {"id": 7, "text": "c"}]
    path = write(tmp_path / "rows.jsonl", [json.dumps(row).encode() for row in rows])

    with pytest.raises(DataError, match=r"row 3: has the id 7 of an earlier row"):
        tokenise(reader(path, tokenizer), 99)
    assert len(tokenise(reader(path, tokenizer), 99, on_bad_row="skip")) == 2


def test_files_of_other_columns_are_told_before_they_are_read(tmp_path, tokenizer):
    write(tmp_path / "a.jsonl", GOOD)
    write(tmp_path / "b.jsonl", [b'{"prompt": "a", "completion": "b"}'])

    with pytest.raises(DataError, match=r"b.jsonl row 1: has the columns prompt, completion among"):
        tokenise(reader(tmp_path, tokenizer), 99)


def test_an_empty_file_is_told(tmp_path, tokenizer):
    write(tmp_path / "rows.jsonl", [])

    with pytest.raises(DataError, match=r"rows.jsonl: holds no row"):
        reader(tmp_path / "rows.jsonl", tokenizer)


def test_a_row_of_a_hundred_megabytes_costs_a_few_seconds(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(GOOD[0] + b"\n" + text("hello world " * 8_400_000) + b"\n")
    started = time.monotonic()

    dropped = tokenise(reader(path, tokenizer), 99)
    cut = tokenise(reader(path, tokenizer), 99, "truncate")
    with pytest.raises(DataError, match=r"row 2: has 100800000 characters, over data.max_length"):
        tokenise(reader(path, tokenizer), 99, "error")

    assert time.monotonic() - started < 60
    assert (len(dropped), dropped.dropped) == (1, 1)
    assert len(cut.row(1)[0]) == 99
    assert (cut.read, cut.truncated) == (2, 1)


def test_a_long_text_is_split_into_pieces_that_are_the_text(tmp_path, tokenizer):
    words = "the user asks and the assistant answers " * 40
    path = write(tmp_path / "rows.jsonl", [text(words)])
    whole = tokenise(reader(path, tokenizer), 10_000).ids.tolist()

    pieces = tokenise(reader(path, tokenizer), 32, "split")

    assert len(pieces) > 5
    bos, joined = tokenizer.bos_token_id, []
    for index in range(len(pieces)):
        ids, targets = pieces.row(index)
        assert len(ids) <= 32
        assert ids[0] == bos
        assert targets.tolist() == [False] + [True] * (len(ids) - 1)
        joined += ids[1:].tolist()
    assert [bos, *joined] == whole


def test_a_long_conversation_is_split_between_exchanges(tmp_path, tokenizer):
    messages = [{"role": "system", "content": "system"}]
    for number in range(6):
        messages += [
            {"role": "user", "content": f"hello {number}"},
            {"role": "assistant", "content": f"world {number}"},
        ]
    path = write(tmp_path / "rows.jsonl", [json.dumps({"messages": messages}).encode()])

    pieces = tokenise(reader(path, tokenizer), 80, "split")

    texts = [tokenizer.decode(pieces.row(index)[0]) for index in range(len(pieces))]
    assert len(texts) > 1
    assert all(t.startswith("<|im_start|>system\nsystem<|im_end|>") for t in texts)
    assert all(t.endswith("<|im_end|>\n") for t in texts)
    said = "".join(texts)
    assert all(said.count(f"world {number}<|im_end|>") == 1 for number in range(6))


def test_a_prompt_is_not_split_from_its_completion(tmp_path, tokenizer):
    row = {"prompt": "hello " * 50, "completion": "world"}
    path = write(tmp_path / "rows.jsonl", [json.dumps(row).encode()])

    with pytest.raises(DataError, match=r"row 1: is over data.max_length 32, and a prompt is not"):
        tokenise(reader(path, tokenizer), 32, "split")


def test_several_processes_make_the_same_tokens(tmp_path, tokenizer):
    lines = [text(f"hello {number} " * (number % 5 + 1)) for number in range(3000)]
    path = write(tmp_path / "rows.jsonl", lines)
    counted = []

    one = tokenise(reader(path, tokenizer), 99)
    two = tokenise(
        reader(path, tokenizer), 99, processes=2, seen=lambda rows, _: counted.append(rows)
    )

    assert two.ids.equal(one.ids)
    assert two.offsets.equal(one.offsets)
    assert sum(counted) == 3000
