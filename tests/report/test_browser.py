"""Pages as people see them. Oracle: a real Chromium."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigpeft.report import compare_runs, write_comparison, write_report
from tests.report.browser import measure, needs_chromium, print_pdf, screenshot
from tests.report.folders import write, write_run, write_samples

pytestmark = needs_chromium

LONG = "x" * 400


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run with everything in it, and with words that nothing can break."""
    folder = write_run(tmp_path_factory.mktemp("pages") / f"run-{LONG[:200]}", "model.name=" + LONG)
    write_samples(
        folder, {"prompt": LONG, "expected": LONG, "before": LONG, "after": "words " * 90}
    )
    write(folder, "environment.json", {LONG: LONG, "python": "3.11"})
    file = {"path": f"/data/{LONG}.jsonl", "bytes": 1, "sha256": "ab" * 32}
    write(folder, "data.json", {"train": {"files": [file], "rows": 10**15, "tokens": 10**18}})
    write(folder, "run.json", {"steps": 40, "starts": [{"step": 0}, {"step": 20}]})
    return write_report(folder)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    methods = ("lora", "dora", "ssb", "pissa", "vera", "loha", "boft")
    runs = [write_run(folder / name, f"method.name={name}") for name in methods]
    return write_comparison(compare_runs(runs), folder / "compare.html")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["report", "comparison"])
def test_nothing_sticks_out_of_a_phone_or_of_a_desk(page, width, request):
    told = measure(request.getfixturevalue(page), width)

    assert told["width"] == width
    assert told["scroll"] <= width
    assert told["out"] == []
    assert told["text"] > 500
    assert min(told["charts"]) > 250


def test_a_page_is_dark_where_everything_is_and_never_blank(report, tmp_path):
    light = screenshot(report, 390, 1600, tmp_path / "light.png")
    dark = screenshot(report, 390, 1600, tmp_path / "dark.png", "--force-dark-mode")

    day, night = (np.asarray(Image.open(path).convert("L"), dtype=float) for path in (light, dark))
    assert day[:, :390].mean() > 200
    assert night[:, :390].mean() < 90
    for picture in (day, night):
        rows = picture[:, :390].reshape(8, -1)  # words, tiles or curves in every stretch
        assert rows.std(axis=1).min() > 3


def test_it_prints(report, tmp_path):
    pdf = print_pdf(report, tmp_path / "page.pdf").read_bytes()

    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 2
