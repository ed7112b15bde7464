"""A report is one file that loads nothing else, shows the right numbers, and escapes all text."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.made_analysis import made_analysis, made_evaluation, made_images
from PIL import Image

from detrkit.errors import OutputError
from detrkit.evaluation.figures import MEANINGS, ClassFigures, Evaluation
from detrkit.evaluation.report import (
    Beside,
    Cell,
    Chart,
    Folded,
    Photo,
    Section,
    Table,
    class_figure,
    evaluation_sections,
    finding_points,
    write_charts,
    write_photos,
    write_report,
)
from detrkit.evaluation.report import page as page_module
from detrkit.evaluation.report.photo_files import legend_strip, sheet


class Page(HTMLParser):
    """The table rows of a page, its tags, every address in it, and its ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.alternatives: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.alternatives += [
            value or "" for name, value in attrs if (tag, name) in (("img", "alt"), ("svg", "aria-label"))
        ]
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("td", "th") and data.strip():
            self.rows[-1].append(data)


def written(tmp_path: Path, *sections: Section) -> tuple[str, Page]:
    text = write_report(tmp_path / "report.html", "Pets <1>", sections).read_text(encoding="utf-8")
    return text, Page(text)


def photo(name: str, *images: Image.Image) -> Photo:
    return Photo(
        name, f"the caption of {name}", images, ("left", "right")[: len(images)], ("one", "two")[: len(images)]
    )


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_an_evaluation_with_its_analysis(tmp_path: Path) -> None:
    sections = evaluation_sections(made_evaluation(("<cat>", "dog", "cow")), made_analysis(("<cat>", "dog", "cow")))
    assert [section.title for section in sections] == [
        "Summary: pets val", "Figures", "Classes", "Thresholds", "Confusions", "Errors", "Size and crowdedness",
        "Images with most errors", "Notes",
    ]  # fmt: skip
    text, page = written(tmp_path, *sections)
    assert "<title>Pets &lt;1&gt;</title>" in text
    assert "<cat>" not in text
    for row in (
        ["AP", "0.432", "0.400 to 0.470", "mean AP over IoU 0.50 to 0.95"],
        ["AP_large", "no ground truth of this size", "–", "AP, from 96 × 96 pixels"],
        ["<cat>", "10", "0.200", "0.300", "0.100 to 0.300", "0.750", "0.600", "0.667", "0.300 *"],
        ["dog", "20", "0.400", "0.500", "0.300 to 0.500", "0.750", "0.600", "0.667", "0.300"],
        ["<cat>", "dog", "3", "30.0%"],
        [
            "Missed",
            "7",
            "0.170",
            "objects that no detection stands for, not even of the wrong class or in the wrong place",
        ],
        ["small", "10", "12", "0.100", "0.200", "up to 32 × 32 pixels"],
        ["large", "0", "0", "no ground truth of this size", "–", "from 96 × 96 pixels"],
        ["2 to 3 objects", "10", "20", "0.300", "0.400", "images with 2 to 3 objects"],
        ["<one>.png", "6", "4", "1", "1", "1", "1", "1", "1", "1"],
        ["2", "1", "2", "1", "0", "0", "0", "0", "0", "1"],
    ):
        assert row in page.rows
    for sentence in (
        "1 of 3 classes has no objects here, so no figures.",
        "95% interval 0.400 to 0.470",
        "&lt;cat&gt; (AP 0.200, 10 objects), dog (AP 0.400, 20 objects).",
        "missed (7 of 22 errors): objects that no detection stands for",
        "12 of 27 detections are correct, and 12 of 30 objects are found. Duplicates are 14.8% of the detections. "
        "2 detections in crowd regions count neither way.",
        "dog: threshold 0.300 (its best threshold): 6 correct detections of 8, 20 objects; precision 0.750, recall 0.600, F1 0.667.",
        "&lt;cat&gt;: threshold 0.300 (that of all classes: too few objects, or no correct detection, for one of its own)",
        "Another note.",
    ):
        assert sentence in text
    assert text.count("A note &amp; a half.") == 1
    advice = [
        text.index(f"<strong>{name}:</strong>") for name in ("Missed", "Nothing there", "Wrong class", "Wrong place")
    ]
    assert advice == sorted(advice)


def test_it_loads_nothing_and_everything_has_words(tmp_path: Path) -> None:
    pictures = Section("Photos", (photo("photo", noise(40, 30), noise(40, 30)),))
    text, page = written(tmp_path, *evaluation_sections(made_evaluation(), made_analysis()), pictures)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", re.sub(r"data:image/[^\"]*", "", text))
    assert not {"iframe", "object", "embed"} & set(page.tags)
    assert all(address.startswith(("data:image/", "#", "data:,")) for address in page.addresses)
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(page.alternatives) == page.tags.count("svg") + page.tags.count("img")
    assert all(len(words) > 2 for words in page.alternatives)
    assert page.tags.count("h1") == 1
    heads = [tag for tag in page.tags if tag == "th"]
    assert len(heads) == text.count('scope="col"') + text.count('scope="row"')


def test_without_an_analysis_there_are_figures_and_classes(tmp_path: Path) -> None:
    sections = evaluation_sections(made_evaluation())
    assert [section.title for section in sections] == ["Summary: pets val", "Figures", "Classes", "Notes"]
    _, page = written(tmp_path, *sections)
    assert ["AP", "0.432", "mean AP over IoU 0.50 to 0.95"] in page.rows
    assert ["dog", "20", "0.400", "0.500"] in page.rows


def test_without_ground_truth_there_are_only_figures() -> None:
    empty = Evaluation("pets", dict.fromkeys(MEANINGS), (ClassFigures(5, "cat", None, None, 0),), 3, 0, 0, 10)
    sections = evaluation_sections(empty)
    assert [section.title for section in sections] == ["Summary: pets", "Figures"]
    table = sections[1].blocks[0]
    assert isinstance(table, Table)
    assert table.rows[0][1] == "no ground truth"


def test_without_errors_that_is_said(tmp_path: Path) -> None:
    analysis = made_analysis(images=())
    counts = dict.fromkeys(analysis.errors.counts, 0)
    diagonal = tuple(tuple(6 if row == column < 2 else 0 for column in range(4)) for row in range(4))
    analysis = replace(
        analysis,
        errors=replace(analysis.errors, counts=counts, costs={}, duplicate_share=None, ignored=0),
        confusion=replace(analysis.confusion, counts=diagonal),
    )
    text, _ = written(tmp_path, *evaluation_sections(made_evaluation(), analysis))
    assert "There is no error." in text
    assert "No object was taken for one of another class." in text
    assert "Images with most errors" not in text
    assert "Commonest error" not in text


@pytest.mark.parametrize("count", [1, 2, 130])
def test_any_number_of_classes(tmp_path: Path, count: int) -> None:
    names = [f"class {number} $of$ many" for number in range(count + 1)]
    text, page = written(tmp_path, *evaluation_sections(made_evaluation(names), made_analysis(names, made_images())))
    assert [row[0] for row in page.rows].count(names[0]) >= 1
    assert len(text) < 2_000_000
    assert text.count("<option") == min(count, 100)
    assert ("The 100 classes with the most objects." in text) == (count > 100)


def test_tables_sort_numbers_and_missing_ones_stay_below(tmp_path: Path) -> None:
    rows = (("a", Cell("0.5", 0.5, 0.5)), ("b", "–"), ("<c>", Cell("1 to 2", order=1)))
    text, page = written(tmp_path, Section("Numbers", (Table(("name", "value"), rows, "A caption", numbers=True),)))
    assert re.findall(r'<td[^>]*data-order="([^"]*)"', text) == ["0.5", "", "1"]
    assert 'style="--share: 50.0"' in text
    assert 'class="numbers sortable"' in text
    assert page.rows == [["name", "value"], ["a", "0.5"], ["b", "–"], ["<c>", "1 to 2"]]


def test_cells_lead_to_files_and_paths_may_break(tmp_path: Path) -> None:
    rows = (("one", Cell("its report", link="one/report.html")), ("two", "of /data/<my>/photos/"))
    text, _ = written(tmp_path, Section("Runs", (Table(("run", "where"), rows),)))
    assert '<td data-order="its report"><a href="one/report.html">its report</a></td>' in text
    assert "of /data/<wbr>&lt;my&gt;/<wbr>photos/<" in text


def test_blocks_can_be_folded_and_stand_beside_each_other(tmp_path: Path) -> None:
    inside = Folded("More <of> it", (Beside((("left",), ("right", photo("deep", noise(20, 20))))),))
    text, page = written(tmp_path, Section("A & B", (inside,)), Section("A & B"))
    assert text.index("<summary>More &lt;of&gt; it</summary>") < text.index("<p>left</p>") < text.index("</details>")
    assert page.tags.count("img") == 1
    assert {"a-b", "a-b-2"} <= set(page.ids)


def test_photos_are_jpeg_and_never_enlarged(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (40, 30), (200, 30, 30, 255))
    _, page = written(tmp_path, Section("Examples", (photo("one", picture),)))
    (address,) = [each for each in page.addresses if each.startswith("data:image/jpeg")]
    opened = Image.open(BytesIO(base64.b64decode(address.partition(",")[2])))
    assert opened.size == (40, 30)
    assert np.abs(np.array(opened.getpixel((20, 15))) - (200, 30, 30)).max() < 5


def test_photos_become_smaller_until_they_fit(tmp_path: Path) -> None:
    # Noise is the worst that a JPEG can hold; real photos are a tenth of it.
    picture = noise(800, 600)
    many = tuple(photo(f"noise {number}", picture, picture) for number in range(12))
    text, page = written(tmp_path, Section("Noise", many))
    assert len(text.encode()) < page_module.LARGEST_FILE
    sizes = {
        Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))).size
        for address in page.addresses
        if address.startswith("data:image/jpeg")
    }
    assert len(sizes) == 1
    assert sizes.pop()[0] in (360, 480, 640)
    assert page.tags.count("img") == 24


def test_photos_that_fit_at_no_size_are_left_out_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "PHOTO_BYTES", 60_000)
    many = tuple(photo(f"noise {number}", noise(800, 600)) for number in range(5))
    text, page = written(tmp_path, Section("Noise", many))
    left = page.tags.count("img")
    assert 0 < left < 5
    assert f"{5 - left} of the pictures {'was' if left == 4 else 'were'} left out to keep this file small." in text
    assert "the caption of noise 0" in text
    assert "the caption of noise 4" not in text


def test_the_finished_file_decides_how_many_photos_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple((f"a class with a long name {number}", "0.5") for number in range(2000))
    table = Table(("class", "AP"), rows)
    bare, _ = written(tmp_path, Section("Classes", (table,)))
    one, _ = written(tmp_path, Section("Classes", (table, photo("noise", noise(300, 300)))))
    size, each = len(bare.encode()), len(one.encode()) - len(bare.encode())
    many = tuple(photo(f"noise {number}", noise(300, 300)) for number in range(4))
    monkeypatch.setattr(page_module, "LARGEST_FILE", size + 2 * each + each // 2)
    text, page = written(tmp_path, Section("Classes", (table, *many)))
    assert len(text.encode()) <= page_module.LARGEST_FILE
    assert page.tags.count("img") == 4  # smaller ones: as they would be, they would not fit
    monkeypatch.setattr(page_module, "LARGEST_FILE", size // 2)
    text, page = written(tmp_path, Section("Classes", (table, *many)))
    assert page.tags.count("img") == 0
    assert "4 of the pictures were left out to keep this file small." in text
    assert "a class with a long name 1999" in text


def test_charts_and_photos_as_files(tmp_path: Path) -> None:
    chart = Chart("classes", class_figure(made_evaluation()), "words")
    sections = [Section("One", (Folded("in", (chart,)), photo("example_1", noise(100, 60), noise(100, 60))))]
    assert write_charts(tmp_path / "charts", sections) == [tmp_path / "charts" / "classes.png"]
    opened = Image.open(tmp_path / "charts" / "classes.png")
    assert opened.format == "PNG"
    assert opened.width == 750
    assert write_photos(tmp_path, sections) == [tmp_path / "example_1.jpg"]
    assert Image.open(tmp_path / "example_1.jpg").size == (204, 108)  # with a line of labels and one for the caption


def test_a_photo_file_has_its_legend_in_as_many_lines_as_it_needs() -> None:
    key = (("#3FC79A", "correct"), ("#F0E442", "missed"))
    wide, narrow = legend_strip(key, 400, size=12), legend_strip(key, 90, size=12)
    assert (wide.size, narrow.size) == ((400, 24), (90, 48))
    assert wide.getpixel((12, 12)) == (0x3F, 0xC7, 0x9A)
    assert narrow.getpixel((12, 36)) == (0xF0, 0xE4, 0x42)
    images = (noise(100, 60), noise(100, 60))
    plain, keyed = (sheet(images, ("left", "right"), "the caption", each) for each in ((), key))
    assert keyed.width == plain.width
    assert keyed.height > plain.height


def test_every_chart_of_an_evaluation_becomes_a_file(tmp_path: Path) -> None:
    files = write_charts(tmp_path, evaluation_sections(made_evaluation(), made_analysis()))
    assert [file.name for file in files] == [
        "precision_recall.png", "classes.png", "thresholds.png", "confusion.png", "errors.png", "error_costs.png",
    ]  # fmt: skip


def test_findings_are_listed_worst_first(tmp_path: Path) -> None:
    @dataclass
    class Finding:
        severity: str
        message: str
        remedy: str = ""

    findings: list[Any] = [
        Finding("note", "All is <well>."),
        Finding("error", "One picture is missing.", "Put it back."),
        Finding("warning", "Two boxes are equal.", ""),
    ]
    points = finding_points(findings)
    assert points.points == (
        ("Error:", "One picture is missing. Put it back."),
        ("Warning:", "Two boxes are equal."),
        ("Note:", "All is <well>."),
    )
    assert points.kinds == ("error", "warning", "")
    text, _ = written(tmp_path, Section("Data", (points,)))
    assert '<li class="error"><strong>Error:</strong> One picture is missing. Put it back.</li>' in text
    assert "All is &lt;well&gt;." in text


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/report\.html cannot be written"):
        write_report(tmp_path / "file" / "report.html", "Report", [])
