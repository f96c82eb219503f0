"""Oracle: the rows that were added."""

import json

from bigpeft.train.metrics import MetricsFile, read_rows


def test_a_resumed_run_repeats_no_row_and_loses_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    for step in range(1, 6):
        file.add({"step": step, "loss": 10.0 - step})

    file.cut(3)
    file.add({"step": 4, "loss": 0.5})

    assert [(row["step"], row["loss"]) for row in read_rows(path)] == [
        (1, 9.0),
        (2, 8.0),
        (3, 7.0),
        (4, 0.5),
    ]


def test_a_line_cut_off_by_a_crash_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')

    MetricsFile(path).cut(2)

    assert path.read_text() == '{"step": 1, "loss": 1.0}\n'


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
    path = tmp_path / "metrics.jsonl"

    MetricsFile(path).add({"step": 1, "loss": float("nan"), "grad_norm": float("inf")})

    assert json.loads(path.read_text()) == {"step": 1, "loss": None, "grad_norm": None}
