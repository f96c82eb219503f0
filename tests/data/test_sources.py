"""Files as rows. Oracle: the values that were written, and the place of each mistake."""

import gzip
import json

import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars

from bigpeft.data import load_rows
from bigpeft.errors import DataError

disable_progress_bars()

ROWS = [{"text": "2020-01-01T00:00:00"}, {"text": "Zoë, NA"}, {"text": ""}]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"
CSV = 'text\n2020-01-01T00:00:00\n"Zoë, NA"\n""\n'


def write(folder, name):
    path = folder / name
    match name:
        case "rows.jsonl":
            path.write_text(LINES, encoding="utf-8")
        case "windows.jsonl":
            path.write_text(LINES.replace("\n", "\r\n\r\n"), encoding="utf-8-sig", newline="")
        case "rows.jsonl.gz":
            path.write_bytes(gzip.compress(LINES.encode()))
        case "list.json":
            path.write_text(json.dumps(ROWS, indent=1))
        case "lines.json":
            path.write_text(LINES, encoding="utf-8")
        case "rows.csv":
            path.write_text(CSV, encoding="utf-8")
        case "rows.parquet":
            Dataset.from_list(ROWS).to_parquet(path)
        case "arrow":
            Dataset.from_list(ROWS).save_to_disk(path)
    return path


NAMES = [
    "rows.jsonl",
    "windows.jsonl",
    "rows.jsonl.gz",
    "list.json",
    "lines.json",
    "rows.csv",
    "rows.parquet",
    "arrow",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_file_gives_the_rows_that_were_written(tmp_path, name):
    path = write(tmp_path, name)

    rows = load_rows((str(path),))

    assert list(rows) == [(f"{path} row {n}", row) for n, row in enumerate(ROWS, 1)]
    assert list(rows) == list(rows)
    assert rows.columns == ("text",)


def test_paths_globs_and_folders_come_one_after_another_up_to_the_limit(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{name}1"}}\n{{"text": "{name}2"}}\n')
    (tmp_path / "notes.md").write_text("not data")

    for path in (str(tmp_path), str(tmp_path / "*.jsonl")):
        rows = load_rows((path, str(tmp_path / "b.jsonl")), limit=5)
        assert [row["text"] for _, row in rows] == ["a1", "a2", "b1", "b2", "b1"]
        assert [place.rpartition("/")[2] for place, _ in rows][-1] == "b.jsonl row 1"


BROKEN = {
    "missing.jsonl": (None, "missing.jsonl: does not exist"),
    "none*.jsonl": (None, "matches no file"),
    "empty.jsonl": (b"", "empty.jsonl: holds no row"),
    "blank.jsonl": (b"\n \n", "blank.jsonl: holds no row"),
    "empty.json": (b"[]", "empty.json: holds no row"),
    "header.csv": (b"text\n", "header.csv: holds no row"),
    "latin.jsonl": (b'{"text": "a"}\n{"text": "\xe9"}\n', "latin.jsonl line 2: is not UTF-8"),
    "latin.csv": (b"text\na\n\xe9\n", "latin.csv line 3: is not UTF-8"),
    "cut.jsonl": (b'{"text": "a"}\n\n{"text": "b', "cut.jsonl line 3: is not JSON"),
    "number.jsonl": (b'{"text": "a"}\n7\n', "number.jsonl line 2: is a JSON int"),
    "list.json": (b'[{"text": "a"},\n{"text" "b"}]', "list.json line 2: is not JSON"),
    "inner.json": (b'[{"text": "a"}, "b"]', "inner.json row 2: is a JSON str"),
    "wide.csv": (b"text,more\na,b\nc,d,e\n", "wide.csv line 3: has 3 fields"),
    "cut.jsonl.gz": (gzip.compress(LINES.encode())[:-9], "cut.jsonl.gz: is cut off"),
    "no.jsonl.gz": (b"plain", "no.jsonl.gz: cannot be read"),
    "broken.parquet": (b"garbage", "broken.parquet: cannot be read"),
    "rows.xlsx": (b"PK", "rows.xlsx: is of an unknown kind"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_message_with_its_place_and_a_fix(tmp_path, name):
    content, message = BROKEN[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError) as caught:
        list(load_rows((str(tmp_path / name),)))

    assert message in str(caught.value)
    assert "fix: " in str(caught.value)


def test_a_folder_of_splits_names_them(tmp_path):
    rows = Dataset.from_list(ROWS)
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "both")

    with pytest.raises(DataError, match=r"holds the splits test, train\n  fix: write split: train"):
        load_rows((str(tmp_path / "both"),))

    assert len(list(load_rows((str(tmp_path / "both" / "test"),)))) == 3


def test_a_hub_name_without_network_fails_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(DataError, match="nobody/nothing: is no path here"):
        load_rows(("nobody/nothing",))
