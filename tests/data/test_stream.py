"""Streams. Oracle: the same rows read at once."""

import json
from dataclasses import asdict
from itertools import islice

import pytest
from datasets import Dataset

from bigpeft.data import Reader, load_rows, load_tokenizer, tokenise
from bigpeft.data.held_out import Part
from bigpeft.data.stream import Place, windows
from bigpeft.errors import DataError

TOKENIZER = load_tokenizer("recipes/data/debug/tokenizer")


def write(folder, kind, count, first=0):
    rows = [
        {"text": f"row {number} " + "x" * (number % 7)} for number in range(first, first + count)
    ]
    path = folder / f"{first:03d}.{kind}"
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(str(path), batch_size=3)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp(request.param)
    for first, count in ((0, 5), (5, 1), (6, 11)):
        write(place, request.param, count, first)
    return place


def reader_of(folder, **more):
    return Reader(load_rows((str(folder),), **more), TOKENIZER)


def whole(reader):
    return tokenise(reader, 64)


def texts(tokens):
    return [TOKENIZER.decode(tokens.row(index)[0]) for index in range(len(tokens))]


def read(reader, size, count, place=None):
    return list(islice(windows(reader, size, whole, place or Place()), count))


@pytest.mark.parametrize("size", [1, 4, 17, 100])
def test_windows_hold_the_rows_in_order_again_and_again(folder, size):
    reader = reader_of(folder)
    count = -(-17 // size)

    found = read(reader, size, 2 * count)

    assert [text for window in found[:count] for text in texts(window.tokens)] == texts(
        whole(reader)
    )
    assert [texts(w.tokens) for w in found[:count]] == [texts(w.tokens) for w in found[count:]]
    assert [window.place.windows for window in found] == list(range(2 * count))


@pytest.mark.parametrize("size", [1, 4, 6])
def test_a_stream_goes_on_from_any_window(folder, size):
    reader = reader_of(folder)
    found = read(reader, size, 20)

    for number in range(1, 19, 3):
        place = Place(**json.loads(json.dumps(asdict(found[number].place))))
        again = read(reader, size, 2, place)
        assert again[1].place.rows == found[number + 1].place.rows
        assert [texts(w.tokens) for w in again] == [
            texts(w.tokens) for w in found[number : number + 2]
        ]


def test_limit_and_held_out_rows_are_those_of_a_whole_reading(folder):
    for part in (Part(0.25, 3, True), Part(0.25, 3, False)):
        reader = reader_of(folder, limit=14, part=part)
        count = len(whole(reader))

        found = read(reader, 2, -(-count // 2))

        assert [t for w in found for t in texts(w.tokens)] == texts(whole(reader))
        assert len(found) > 1
        (again,) = read(reader, 2, 1, found[-1].place)
        assert texts(again.tokens) == texts(found[-1].tokens)


def test_a_broken_line_is_told_by_its_number(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{nonsense\n')
    reader = reader_of(tmp_path)

    with pytest.raises(DataError, match=r"rows.jsonl line 3: is not JSON"):
        read(reader, 2, 2)

    skipping = windows(reader, 3, lambda r: tokenise(r, 64, on_bad_row="skip"), Place())
    assert texts(next(skipping).tokens) == texts(whole(reader_of(tmp_path, limit=2)))


def test_a_part_without_rows_ends_with_a_message(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    part = next(p for p in (Part(0.5, seed, True) for seed in range(9)) if not p.has(0))

    with pytest.raises(DataError, match="holds no row to train on"):
        read(reader_of(tmp_path, part=part), 2, 1)
