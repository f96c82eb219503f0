"""The data card. Oracle: the bytes of the files, and counting."""

import hashlib

import torch

from bigpeft.data import Tokens
from bigpeft.data.card import card_of


def rows_of(*lengths):
    """Rows of these lengths, each learning all but its first token."""
    return Tokens.of([(torch.zeros(n, dtype=torch.int32), torch.arange(n) > 0) for n in lengths])


def test_it_names_files_by_their_bytes_and_counts_rows_and_tokens(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/b.jsonl").write_bytes(b"{}\n")
    (tmp_path / "a.jsonl").write_bytes(b"one")

    card = card_of([tmp_path / "a.jsonl", tmp_path / "folder", "hub/rows"], rows_of(3, 50, 7))

    assert card["files"] == [
        {
            "path": str(tmp_path / name),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        for name, content in (("a.jsonl", b"one"), ("folder/b.jsonl", b"{}\n"))
    ] + [{"path": "hub/rows"}]
    assert (card["rows"], card["tokens"], card["target_tokens"]) == (3, 60, 57)


def test_its_histogram_holds_every_row_in_the_bin_of_its_length():
    lengths = [1, 2, 2, 30, 99, 100, 100, 480]

    found = card_of([], rows_of(*lengths))["lengths"]

    width, counts = found["width"], found["counts"]
    assert counts == [
        sum(i * width <= n < (i + 1) * width for n in lengths) for i in range(len(counts))
    ]
    assert sum(counts) == len(lengths)
    assert len(counts) <= 24
    assert (found["mean"], found["median"], found["longest"]) == (101.75, 30, 480)
