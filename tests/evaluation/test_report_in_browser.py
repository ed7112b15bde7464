"""A report in a real browser, on a phone's width and on a desktop's: no error, nothing cut off, and what it offers works."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from browser_pages import FRAME, WIDTHS, facts_of, installed_browser, run
from evaluation.made_analysis import made_analysis, made_evaluation
from PIL import Image

from detrkit.evaluation.report import Folded, Photo, Section, Table, evaluation_sections, write_report


@pytest.fixture(scope="module")
def browser() -> str:
    return installed_browser()


def write_one(path: Path, names: list[str]) -> Path:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    photo = Photo(
        "example", "A very_long_file_name_without_spaces_" * 4, (image, image), ("Left", "Right"), ("one", "two")
    )
    numbers = Table(("name", "value"), (("b", "2"), ("a", "10"), ("c", "–")), numbers=True)
    sections = evaluation_sections(made_evaluation(names), made_analysis(names))
    extra = [Section("Numbers", (numbers,)), Section("Photos", (photo, Folded("More", ("text", photo))))]
    return write_report(path, "A_very_long_title_without_spaces_" * 3, [*sections, *extra], subtitle="Pets & more")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [3, 80])
def test_a_report_fits_and_works(browser: str, tmp_path: Path, width: int, count: int) -> None:
    names = [f"class {number}" for number in range(count - 1)] + ["<a class_name_that_never_seems_to_end>"]
    facts, console = facts_of(browser, write_one(tmp_path / "report.html", names[::-1]), width)
    assert console == []
    assert facts["width"] == width
    assert facts["scroll"] == width
    assert facts["wide"] == []
    assert facts["scrolled"] == []  # sentences can be read without scrolling to the side
    assert (facts["images"], facts["broken"], facts["flat"]) == (4, 0, 0)
    assert facts["text"] > 8  # pixels, on a phone as well
    classes, numbers = facts["tables"]
    first, falling, rising, by_name = classes
    assert first[:2] == [names[-1], names[-2]]
    assert falling == first[::-1]
    assert rising == first
    assert sorted(by_name) == sorted(first)
    assert numbers == [["b", "a", "c"], ["a", "b", "c"], ["b", "a", "c"], ["a", "b", "c"]]
    lines = ("F1", "precision", "recall", "threshold")
    assert [(sorted(shown), name) for shown, name in facts["chosen"]] == [
        ([f"choice-{number}-{line}" for line in lines], names[-1 - number]) for number in (0, 1)
    ]
    assert (facts["folded"], facts["unfolded"]) == (0, 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_screenshot_has_text_and_charts(browser: str, tmp_path: Path, width: int) -> None:
    report = write_one(tmp_path / "report.html", ["cat", "dog", "cow"])
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("SOURCE", report.name).replace("WIDTH", str(width)))
    target = tmp_path / "shot.png"
    _, console = run(browser, tmp_path, frame, f"--screenshot={target}", "--window-size=1400,4000")
    assert console == []
    picture = np.asarray(Image.open(target).convert("RGB"))[:, :width].astype(int)
    blue = np.abs(picture - (0, 0x72, 0xB2)).max(axis=2) < 12
    assert picture.shape[0] == 4000
    assert blue.sum() > 200
    rows_with_ink = (picture.max(axis=2) < 90).any(axis=1)
    assert rows_with_ink[:4000].mean() > 0.2


def test_this_test_would_notice_errors_and_overflow(browser: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><div style="width: 900px">wide</div><img src="none.png"><script>nothing.here()</script>'
    )
    facts, console = facts_of(browser, page, 390)
    assert "nothing is not defined" in " ".join(console)
    assert facts["scroll"] == 908  # with the margin of a plain page
    assert len(facts["wide"]) == 1
    assert facts["broken"] == 1


def test_paper_shows_what_is_folded(browser: str, tmp_path: Path) -> None:
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext, of poppler-utils")
    sections = [Section("One", (Folded("Title", ("what was folded",)), "what was open"))]
    report = write_report(tmp_path / "report.html", "On paper", sections)
    target = tmp_path / "report.pdf"
    run(browser, tmp_path, report, f"--print-to-pdf={target}", "--no-pdf-header-footer")
    text = subprocess.run(["pdftotext", str(target), "-"], capture_output=True, text=True, check=True).stdout
    assert "what was open" in text
    assert "what was folded" in text
