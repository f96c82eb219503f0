"""The picture of a plan. Oracle: the numbers of `bigpeft plan --json`, measured in the SVG."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bigpeft.cli import app
from bigpeft.errors import FileError
from bigpeft.report import write_report
from tests.report.browser import measure, needs_chromium
from tests.report.folders import write, write_run
from tests.report.test_page import Page
from tests.train.runs import DEBUG

LARGE = Path("recipes/llama-3.3-70b-8x80gb.yaml")
GIB = 2**30


def planned(out, recipe, *options):
    """What the command prints as JSON while it writes the page."""
    command = ["plan", "--recipe", str(recipe), "--html", str(out), "--json", *options]
    return json.loads(CliRunner().invoke(app, command, catch_exceptions=False).output)


def heights(page):
    """Id of every part of the picture → its bottom and its top in points, from the page's top."""
    found = {}
    for name, path in re.findall(r'<g id="bytes-([^"]+)">\s*<path d="([^"]+)"', page.read_text()):
        ys = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]
        found[name] = max(ys, default=0), min(ys, default=0)
    return found


@pytest.mark.parametrize(
    "options", [["sharding.group=node"], ["--gpu-memory", "48GiB", "batch.micro_size=2"]]
)
def test_the_bars_are_as_high_as_the_bytes_and_the_line_as_the_memory(options, tmp_path):
    told = planned(tmp_path / "plan.html", LARGE, *options)

    drawn = heights(tmp_path / "plan.html")
    floor = drawn["step-packed"][0]
    per_byte = (floor - drawn["limit-memory-of-a-GPU"][1]) / told["gpu_memory_bytes"]
    for phase, kinds in told["per_rank"].items():
        bars = {kind: drawn[f"{phase}-{kind}"] for kind, n in kinds.items() if n}
        for kind, (bottom, top) in bars.items():
            assert (bottom - top) / per_byte == pytest.approx(kinds[kind], abs=GIB / 1000)
        tops = min(top for _, top in bars.values())
        assert (floor - tops) / per_byte == pytest.approx(sum(kinds.values()), abs=GIB / 1000)


def test_the_page_says_what_the_command_says(tmp_path):
    told = planned(tmp_path / "plan.html", LARGE, "--gpu-memory", "24GiB", "--price", "2.5")

    text = Page(tmp_path / "plan.html").text
    assert "does not fit" in text
    assert " ".join(told["advice"]) in text
    assert f"{told['per_rank']['backward']['activations'] / GIB:.1f} GiB" in text
    assert f"bound by {told['binding']}" in text
    assert f"{told['trainable']:,}" in text
    assert "memory of each 24.0 GiB" in text


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_of_the_page_of_a_plan(width, tmp_path):
    planned(tmp_path / "plan.html", LARGE)

    told = measure(tmp_path / "plan.html", width)

    assert told["scroll"] <= width
    assert told["out"] == []
    assert min(told["charts"]) > 250


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(FileError, match=r"no/plan\.html: cannot be written \(No such file"):
        planned(tmp_path / "no/plan.html", DEBUG, "batch.global_size=8")


FORECAST = {
    "load": {"packed": 6 * GIB, "loading": GIB},
    "forward": {"packed": 12 * GIB, "logits": 3 * GIB},
    "backward": {"packed": 12 * GIB, "logits": 2 * GIB},
    "step": {"packed": 12 * GIB},
}


def run_with_forecast(folder, accelerator):
    write_run(folder, memory_bytes=18 * GIB)
    write(folder, "run.json", {"steps": 40, "starts": [{"step": 0}], "forecast": FORECAST})
    write(folder, "environment.json", {"accelerator": accelerator})
    return write_report(folder)


def test_a_run_s_page_shows_what_was_planned_beside_the_measured_peak(tmp_path):
    page = run_with_forecast(tmp_path / "run", "cuda")

    assert "15.0 GiB of tensors at the peak; measured: 18.0 GiB allocated" in Page(page).text
    drawn = heights(page)
    floor, top = drawn["forward-packed"][0], drawn["forward-logits"][1]
    assert (floor - drawn["limit-measured"][1]) / (floor - top) == pytest.approx(18 / 15, abs=1e-3)


def test_on_a_cpu_the_memory_of_the_whole_process_is_told_and_not_drawn(tmp_path):
    page = run_with_forecast(tmp_path / "run", "cpu")

    assert "measured: 18.0 GiB of the process" in Page(page).text
    assert "limit-measured" not in heights(page)
