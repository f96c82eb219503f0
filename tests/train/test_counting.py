"""How far the reading of rows is. Oracles: the rows that reading gives, and what a screen shows."""

import json
import re
from io import StringIO

from datasets import Dataset
from rich.console import Console

from bigpeft.data import Part, load_rows, rows_in
from bigpeft.train.counting import on_bar

ROWS = [{"text": f"row {number}"} for number in range(40)]


def test_the_number_of_rows_is_that_which_reading_gives(tmp_path):
    lines = "\n".join(map(json.dumps, ROWS))
    (tmp_path / "open.jsonl").write_text(lines)
    (tmp_path / "closed.jsonl").write_text(lines + "\n")
    table = Dataset.from_list(ROWS)
    table.to_parquet(tmp_path / "table.parquet")
    table.save_to_disk(tmp_path / "saved")

    for name in ("open.jsonl", "closed.jsonl", "table.parquet", "saved"):
        parts = ({"part": Part(0.25, 3, held_out)} for held_out in (True, False))
        for more in ({}, {"limit": 7}, *parts):
            rows = load_rows((str(tmp_path / name),), **more)
            assert rows_in(rows) == len(list(rows)), (name, more)


def test_a_file_whose_end_only_reading_tells_has_no_number(tmp_path):
    (tmp_path / "rows.csv").write_text('text\n"a\nb"\n')

    assert rows_in(load_rows((str(tmp_path / "rows.csv"),))) is None


def test_a_bar_shows_how_far_it_is_and_goes_away():
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=100)

    with on_bar("tokenising train", console, 1000) as seen:
        seen(250, 4000)
        seen(250, 5000)

    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", screen.getvalue())
    assert "tokenising train: 500 rows, 9,000 tokens" in shown
    assert screen.getvalue().rstrip().endswith("\x1b[2K")  # the line is wiped
