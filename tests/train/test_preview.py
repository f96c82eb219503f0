"""What a preview shows. Oracles: the tokenizer, the file of rows, and the run that follows."""

import html
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.data import load_tokenizer
from bigpeft.recipe import load_recipe
from bigpeft.train.preview import pieces, preview
from tests.train.runs import DEBUG, column, run

FIRST = json.loads(Path("recipes/data/debug/train.jsonl").read_text().splitlines()[0])


def found_with(folder, *overrides, rows=3):
    return preview(load_recipe(DEBUG, [f"run.folder={folder}", *overrides]), rows)


def test_pieces_are_the_row_and_the_learned_ones_its_answers(tmp_path):
    row = found_with(tmp_path).rows[0]

    answers = [turn["content"] for turn in FIRST["messages"] if turn["role"] == "assistant"]
    learned = "".join(piece.text for piece in row if piece.learned and not piece.special)
    assert learned.strip() == "".join(answers)
    text = "".join(piece.text for piece in row)
    assert all(turn["content"] in text for turn in FIRST["messages"])
    assert any(piece.special for piece in row)


def test_letters_of_many_bytes_stay_whole():
    tokenizer = load_tokenizer("recipes/data/debug/tokenizer")
    text = "naïve 東京 — ok"
    encoded = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]

    (piece,) = pieces(encoded, encoded > 0, tokenizer)

    assert piece.text == text


@pytest.mark.parametrize("packing", ["true", "false"])
def test_its_figures_are_those_of_the_run(packing, tmp_path):
    overrides = [f"data.packing={packing}", "train={epochs: 1}", "eval=null", "data.limit=40"]
    overrides += ["batch={global_size: 4, micro_size: 2}", "data.shuffle=false"]

    found = found_with(tmp_path, *overrides)
    run(1, tmp_path, *overrides)

    assert found.steps == len(column(tmp_path, "step"))
    tokens = column(tmp_path, "tokens")
    if packing == "false":  # 40 rows are ten steps, 9 packs two and a bit
        assert len(found.tokens.ids) == sum(tokens)
        assert found.learned == sum(column(tmp_path, "target_tokens"))
    assert found.epochs >= 1
    assert 0.5 < found.filled <= 1
    assert sum(count for _, _, count in found.histogram()) == 40


def test_rows_over_the_length_are_counted(tmp_path):
    found = found_with(tmp_path, "data.max_length=40")

    assert found.tokens.read == found.tokens.dropped + len(found.lengths) == 64
    assert found.tokens.dropped > 0
    assert int(found.lengths.max()) <= 40


def test_rows_that_are_cut_dropped_or_skipped_are_told_with_their_share(tmp_path):
    page, rows = tmp_path / "page.html", tmp_path / "rows.jsonl"
    texts = ["short", "word " * 40, "word " * 60, 7]
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ["data", "preview", "--recipe", str(DEBUG), "--html", str(page), "--rows", "0"]
    words += [f"run.folder={tmp_path / 'run'}", f"data.path={rows}", "eval=null"]
    words += ["data.max_length=20", "data.on_bad_row=skip", "data.packing=true"]

    def told(long_rows: str) -> tuple[str, dict]:
        more = [*words, f"data.long_rows={long_rows}"]
        output = CliRunner().invoke(app, more, catch_exceptions=False).output
        written = html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))
        shown = [re.sub(r"\s+", " ", text) for text in (output, written)]
        for text in shown:
            assert "skipped 1 cannot be used (25.0%)" in text
            assert "row 4 holds a int" in text
        assert shown[1].split("over data")[1][:60] == shown[0].split("over data")[1][:60]
        return shown[0], json.loads((tmp_path / "run/data.json").read_text())["train"]

    cut, card = told("truncate")
    assert "over data.max_length 2 truncated (50.0%) of 4 rows read" in cut
    assert [card[key] for key in ("read", "rows", "skipped", "truncated")] == [4, 3, 1, 2]
    packs, room = card["packing"]["packs"], 20
    assert card["packing"]["fill"] == card["tokens"] / (packs * room)

    dropped, card = told("drop")
    assert "2 dropped (50.0%) of 4 rows read" in dropped
    assert (card["rows"], card["dropped"]) == (1, 2)

    split, card = told("split")
    assert "2 split (50.0%) of 4 rows read" in split
    assert (card["dropped"], card["split"]) == (0, 2)
    assert card["rows"] > 4


def test_the_command_prints_rows_and_figures_and_writes_a_page(tmp_path):
    page = tmp_path / "page.html"
    row = {"messages": [{"role": "user", "content": "is 1 < 2 & <b>?"}]}
    row["messages"].append({"role": "assistant", "content": "yes </pre><script>x</script>"})
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    words = ["data", "preview", "--recipe", str(DEBUG), "--html", str(page)]
    more = [f"run.folder={tmp_path / 'run'}", f"data.path={tmp_path / 'rows.jsonl'}"]

    told = CliRunner().invoke(app, [*words, *more, "eval=null"], catch_exceptions=False).output

    assert "[[yes </pre><script>x</script>" in told
    assert "1 rows" in told
    assert "tokenising" not in told  # a bar belongs on a screen
    assert "20 steps of 4, 80.00 epochs" in told
    written = page.read_text()
    assert "<script>" not in written
    text = html.unescape(re.sub(r"<[^>]+>", "", written))
    assert "is 1 < 2 & <b>?" in text
    assert "yes </pre><script>x</script>" in text


def test_a_bad_row_is_told_as_the_run_would_tell_it(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    words = ["data", "preview", "--recipe", str(DEBUG), f"data.path={tmp_path / 'rows.jsonl'}"]

    told = CliRunner().invoke(app, [*words, f"run.folder={tmp_path / 'run'}"])

    assert "rows.jsonl row 1: needs a list of messages" in re.sub(r"\s+", " ", str(told.exception))
