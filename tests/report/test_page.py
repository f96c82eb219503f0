"""The page of a run. Oracle: the files that it was written from, and an HTML parser."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError
from bigpeft.recipe import load_recipe
from bigpeft.report import write_report
from bigpeft.report.changes import changes, differences
from tests.report.folders import write, write_run, write_samples
from tests.train.runs import DEBUG

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        if self.tags and self.tags[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: Path) -> Page:
    return Page(write_report(folder))


def test_a_finished_run_is_told_with_its_figures_data_and_environment(tmp_path):
    text = page_of(write_run(tmp_path / "first")).text

    assert "first" in text
    assert "Steps 40 of 40" in text
    assert "lora on llama" in text
    assert "Held-out accuracy 0.65 from 0.25" in text
    assert "1,200 tokens/s" in text
    assert "3.0 GiB" in text
    assert "4,321" in text
    assert "data/train.jsonl 8.0 KiB " + "ab" * 32 in text
    assert "37.2 %" in text  # 500 of 1344 tokens
    assert "packages.torch 2.13.0" in text
    assert "method.rank 4 8" in text


def test_an_accuracy_has_an_interval_from_the_number_of_its_rows(tmp_path):
    text = page_of(write_run(tmp_path / "run")).text

    assert "held-out accuracy 0.25 (0.142–0.402) 0.65 (0.495–0.779) 40" in text


def test_an_evaluation_of_its_own_is_shown_as_it_is(tmp_path):
    folder = write_run(tmp_path / "run")
    before = {"sums": {"exact_match": {"value": 0.125, "low": 0.1, "high": 0.15, "rows": 80}}}
    after = {"sums": {"exact_match": {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 80}}}
    write(folder, "eval.json", {"before": before, "after": after})

    assert "sums exact_match 0.125 (0.1–0.15) 0.5 (0.4–0.6) 80" in page_of(folder).text


def test_samples_are_shown_before_and_after(tmp_path):
    folder = write_run(tmp_path / "run")
    many = [{"prompt": f"q{n}", "expected": "e", "before": None, "after": "a"} for n in range(25)]
    write_samples(folder, *many)

    text = page_of(folder).text

    assert "Prompt q0 Expected e After a" in text
    assert "5 more in samples.jsonl" in text


def test_nothing_of_a_run_becomes_markup(tmp_path):
    folder = write_run(tmp_path / "<img src=x onerror=alert(3)>")
    write_samples(folder, dict.fromkeys(("prompt", "expected", "before", "after"), EVIL))
    write(folder, "data.json", {EVIL: {"files": [{"path": EVIL}], "rows": EVIL, "skipped": EVIL}})
    score = {"value": 1.0}
    write(folder, "eval.json", {"after": {EVIL: {EVIL: score}}})
    write(folder, "environment.json", {EVIL: EVIL})
    (folder / "run.log").write_text(f"Warning: {EVIL}\n")
    (folder / "tracking").mkdir()
    (folder / "tracking/wandb.error").write_text(EVIL)

    page = page_of(folder)

    assert EVIL in page.text
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_asks_the_network_for_nothing_and_says_so_to_the_browser(tmp_path):
    page = page_of(write_run(tmp_path / "run"))

    loading = ("src", "srcset", "href", "xlink:href", "data", "action", "poster", "background")
    asked = [value for name, value in page.attributes if name in loading]
    assert [value for value in asked if not value.startswith("#")] == []
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "viewport" in dict(page.attributes).values() or ("name", "viewport") in page.attributes


def test_charts_have_words_for_those_who_do_not_see_them_and_no_two_parts_share_an_id(tmp_path):
    page = page_of(write_run(tmp_path / "run"))

    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "Held-out loss: 5.5 at step 0, 3.5 at step 40" in labels
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert page.tags.count("h1") == 1


def test_several_starts_make_one_record(tmp_path):
    folder = write_run(tmp_path / "run")
    starts = [{"step": 0}, {"step": 12}, {"step": 30}]
    write(folder, "run.json", {"steps": 40, "starts": starts})

    text = page_of(folder).text

    assert "The run was started again 2 times, at step 12, 30." in text
    assert "Steps 40 of 40" in text


def test_a_run_that_learns_nothing_overfits_or_loses_rows_is_told(tmp_path):
    folder = write_run(tmp_path / "run", loss=2.0, grad_norm=None)
    card = {"rows": 50, "dropped": 50, "skipped": 3, "tokens": 10, "target_tokens": 5}
    cut = {"rows": 30, "read": 40, "dropped": 0, "truncated": 20, "skipped": 10}
    packing = {"packs": 7, "fill": 0.97531}
    write(folder, "data.json", {"train": card, "eval": cut | {"packing": packing}})
    lines = (folder / "metrics.jsonl").read_text().replace('"eval_loss": 3.5', '"eval_loss": 9.5')
    (folder / "metrics.jsonl").write_text(lines)

    text = page_of(folder).text

    assert "The training loss has not fallen: 2.0000 at the start, 2.0000 at the end." in text
    assert "gradient norm was not finite in 40 steps, first 1" in text
    assert "The held-out loss was best at step 30 (4.0000) and ended at 9.5000" in text
    assert "50 of the train rows (50%) were dropped" in text
    assert "3 of the train rows could not be used and were skipped" in text
    assert "20 of the eval rows (50%) were truncated: what stands behind" in text
    assert "Rows 30 of 40 read" in text
    assert "Truncated 20 over the length 50.0 %" in text
    assert "Skipped 10 unusable 25.0 %" in text
    assert "Packing 97.5 % full 7 packs" in text


def test_a_crashed_run_is_told_as_far_as_it_went(tmp_path):
    folder = write_run(tmp_path / "run", steps=7)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')

    text = page_of(folder).text

    assert "interrupted" in text
    assert "Steps 7 of 40" in text
    assert "None has been saved." in text


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "metrics.jsonl", "environment.json"])
@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", "null", '{"steps": "x", "plan": 3, "forecast": {"load": 3}}', "\0\xff"],
)
def test_a_folder_with_hardly_anything_in_it_has_a_page_too(name, content, tmp_path):
    (tmp_path / name).write_text(content, encoding="latin-1")

    text = page_of(tmp_path).text

    assert "No step has been finished yet." in text
    assert "Nothing has been evaluated." in text


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(FileError, match="is no run folder"):
        write_report(tmp_path)


def test_the_command_writes_where_it_is_told_to(tmp_path):
    folder = write_run(tmp_path / "run")

    said = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "page.html")])

    assert said.output.strip() == str(tmp_path / "page.html")
    assert not (folder / "report.html").exists()
    assert "Steps 40 of 40" in Page(tmp_path / "page.html").text


def test_what_a_recipe_changes_is_what_its_file_says_and_the_defaults_do_not():
    written = load_recipe(DEBUG, ["optimizer.clip=1.0", "train.evaluate_every=3"])

    told = {change.key: change for change in changes(written.model_dump(mode="json")) or ()}

    assert told["train.evaluate_every"][1:3] == (3, None)
    assert told["method.rank"][1:3] == (4, 8)
    assert told["batch.global_size"].required
    assert "optimizer.clip" not in told  # written, but as the default has it
    assert "optimizer.betas" not in told


def test_recipes_differ_in_nested_keys_and_in_keys_that_one_has():
    one = {"method": {"name": "lora", "rank": 4}, "run": {"folder": "a"}, "eval": None}
    other = {"method": {"name": "ssb"}, "run": {"folder": "b"}, "eval": {"limit": 3}}

    assert differences([one, other]) == {
        "method.name": ["lora", "ssb"],
        "method.rank": [4, None],
        "eval.limit": [None, 3],
    }
