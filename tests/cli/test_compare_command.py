"""bigpeft compare on the terminal. Oracle: what the run folders hold."""

from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import UserError
from tests.report.folders import write_run


def compare(*runs):
    return CliRunner().invoke(app, ["compare", *map(str, runs)], env={"COLUMNS": "120"})


def test_it_shows_what_differs_and_what_came_of_it(tmp_path):
    one = write_run(tmp_path / "one", "optimizer.learning_rate=0.001")
    other = write_run(tmp_path / "other", "optimizer.learning_rate=0.01", steps=20)

    done = compare(one, other)

    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split()[1:] for line in done.output.splitlines() if line.split()}
    assert rows["optimizer.learning_rate"] == ["0.001", "0.01"]
    assert rows["steps"] == ["40", "20"]
    assert "run.folder" not in rows
    assert "batch.global_size" not in rows


def test_runs_of_one_recipe_differ_in_nothing(tmp_path):
    done = compare(write_run(tmp_path / "one"), write_run(tmp_path / "other"))

    assert done.exit_code == 0, done.output
    assert "differ in nothing" in done.output


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "other").mkdir()

    done = compare(write_run(tmp_path / "one"), tmp_path / "other")

    assert isinstance(done.exception, UserError)
    assert str(tmp_path / "other") in str(done.exception)
