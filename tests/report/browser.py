"""A real Chromium without a window: what it measures, draws and prints of a page."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next((path for path in map(shutil.which, _NAMES) if path), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)

_FRAME = """<!doctype html><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<iframe width="{width}" height="{height}" srcdoc="{page}"></iframe>{script}"""
# Chromium's windows are not narrower than 500 px, frames are.
_MEASURE = """<pre id="told"></pre><script>
onload = () => {
  const page = frames[0].document, wide = frames[0].innerWidth;
  const boxes = [...page.body.querySelectorAll("*")].filter(e => !e.closest("thead"));
  const out = boxes.filter(e => e.getBoundingClientRect().right > wide + 1);
  document.getElementById("told").textContent = JSON.stringify({
    width: wide, scroll: page.documentElement.scrollWidth,
    height: page.documentElement.scrollHeight,
    out: out.map(e => e.tagName + "." + e.getAttribute("class") + " " + e.textContent.slice(0, 40)),
    text: page.body.innerText.length,
    charts: [...page.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect().width),
  });
}</script>"""


def measure(page: Path, width: int) -> dict[str, Any]:
    """Of the page in a frame of this width: scroll width, height, and elements that stick out."""
    with tempfile.TemporaryDirectory() as folder:
        framed = _framed(page, width, 900, Path(folder), _MEASURE)
        dom = _chromium(framed, "--dump-dom", "--window-size=1400,1000")
    told = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert told is not None, dom
    return json.loads(unescape(told[1]))


def screenshot(page: Path, width: int, height: int, out: Path, *flags: str) -> Path:
    """A PNG of the page's first `height` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        framed = _framed(page, width, height, Path(folder), "")
        window = f"--window-size={max(width, 500)},{height}"
        _chromium(framed, f"--screenshot={out}", "--hide-scrollbars", window, *flags)
    return out


def print_pdf(page: Path, out: Path) -> Path:
    """What comes out of the printer."""
    _chromium(page, f"--print-to-pdf={out}", "--no-pdf-header-footer")
    return out


def _framed(page: Path, width: int, height: int, folder: Path, script: str) -> Path:
    path = folder / "frame.html"
    text = _FRAME.format(width=width, height=height, page=escape(page.read_text()), script=script)
    path.write_text(text)
    return path


def _chromium(page: Path, *arguments: str) -> str:
    assert CHROMIUM is not None
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless", "--disable-gpu", f"--user-data-dir={profile}", *root]
        command += ["--disable-background-networking", "--disable-dev-shm-usage", *arguments]
        command.append(page.resolve().as_uri())
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout
