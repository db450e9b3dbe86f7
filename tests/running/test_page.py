"""The page of a run: what it says, and how it looks in a browser where there is one."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lit_ft.running.page import page, readable

REPORT = {
    "name": "digits", "status": "finished", "command": "lit-ft fit -c digits.yaml", "steps": 1500, "wall_seconds": 66.6,
    "peak_memory_bytes": 1_366_024_192, "parameters": 22_713_986, "trainable_parameters": 1_000_000,
    "tokens_per_second": 0.0, "samples_per_second": 1590.2,
    "metrics": {"train/loss": 0.5, "val/loss": 0.25, "val/accuracy": 0.97, "lr-AdamW/pg1": 0.001},
    "callbacks": {"Forgetting": {"old_task": {"start": 0.5, "end": 0.7}}},
}  # fmt: skip
CONFIG = "model: {class_path: lit_ft.methods.ImageClassifier}\ndata: {class_path: lit_ft.data.Digits}\n"
WIDE = '<svg width="460pt" viewBox="0 0 460 200"><text>loss</text></svg>'


def test_it_says_first_what_was_done_and_then_what_came_of_it() -> None:
    html = page(REPORT, {"loss": WIDE}, CONFIG)
    order = ["ImageClassifier on Digits: 1,500 steps in 1 min 6 s, finished.", "1,000,000 (4.40%) of the 22.7 million",
             "<h2>Results", "validation", "<h2>Curves", "<h2>Forgetting", "old task", "1.37 GB", "<h2>How to go on",
             "lit-ft test -c digits.yaml --ckpt_path last", "Configuration"]  # fmt: skip
    places = [html.find(part) for part in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "<script" not in html
    assert "tokens a second" not in html  # none were counted
    assert len(re.findall("<svg ", html)) == html.count("aria-label=")


def test_names_of_the_user_are_shown_and_not_run() -> None:
    html = page({**REPORT, "name": "<b>x</b>", "metrics": {"val/<i>": 1.0}}, {'a" onload="x': WIDE}, "a: <script>")
    assert "<b>x" not in html
    assert "<i>" not in html
    assert 'onload="x' not in html
    assert "<script" not in html


def test_a_text_that_is_no_yaml_is_shown_as_it_is() -> None:
    assert "1,500 steps" in page(REPORT, {}, "a: [")


def test_formulas_stay_as_they_are_written() -> None:
    assert readable("a_b.c_d - e > 0") == "a_b.c_d - e > 0"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(width: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("there is no chromium here")
    long = {**REPORT, "command": "lit-ft fit " + "-c configs/some/long/path/of/a/config.yaml " * 4}
    asks = "<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth</script>"
    (tmp_path / "page.html").write_text(page(long, {"loss": WIDE}, CONFIG) + asks)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    done = subprocess.run(
        [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom",
         (tmp_path / "page.html").as_uri()], capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2])
