"""The interactive page: its numbers are those of the explanation, and it works in a browser, on a phone as on a desktop."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_pages import WIDTHS, installed_browser, run
from explaining.small_explained import picture, small_model
from PIL import Image

from detrkit.cards import Category
from detrkit.data import read_digits
from detrkit.errors import ConfigurationError
from detrkit.explaining import page as page_module
from detrkit.explaining.explaining import explain
from detrkit.explaining.missed import Answers, Verdict, why_missed
from detrkit.explaining.page import write_page
from detrkit.explaining.records import Explanation

NAME = "a </script> & <b>.png"
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin: 0"><pre id="facts"></pre>
<iframe id="frame" src="page.html" style="border: 0; width: WIDTHpx; height: 3000px"></iframe>
<script>
document.getElementById("frame").onload = async (event) => {
  const page = event.target.contentDocument, part = (id) => page.getElementById(id), facts = { sentences: [], hovered: [] };
  await new Promise((done) => setTimeout(done, 300));
  const canvas = part("canvas"), choose = (name, value) => {
    part(name).value = value;
    part(name).dispatchEvent(new Event("change"));
    facts.sentences.push(part("sentence").textContent);
  };
  const hover = (kind) => {
    const around = canvas.getBoundingClientRect();
    const x = around.left + 0.3 * around.width, y = around.top + 0.6 * around.height;
    canvas.dispatchEvent(new PointerEvent(kind, { clientX: x, clientY: y }));
    facts.hovered.push(part("hover").textContent);
  };
  facts.width = page.defaultView.innerWidth;
  facts.scroll = page.documentElement.scrollWidth;
  const pixels = () => canvas.toDataURL();
  const first = pixels();
  facts.sentences.push(part("sentence").textContent);
  hover("pointermove");
  choose("layer", 1);
  choose("head", 2);
  hover("pointerdown");
  facts.changed = pixels() !== first;
  facts.second = !part("second").hidden;
  if (facts.second) { const before = pixels(); choose("kind", 1); facts.gaussian = pixels() !== before; }
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp" }));
  facts.sentences.push(part("sentence").textContent);
  facts.rows = part("layers").tBodies[0].rows.length;
  facts.cells = part("layers").tBodies[0].rows[0].cells.length;
  facts.overlap = !part("overlap").hidden;
  const subjects = part("subject").options.length;
  choose("subject", subjects - 1);
  facts.last = part("sentence").textContent;
  facts.canvas = canvas.width;
  facts.shown = canvas.clientWidth;
  facts.only = part("only").textContent;
  facts.picture = part("picture").options[0].textContent;
  document.getElementById("facts").textContent = JSON.stringify(facts);
};
</script></body>"""


def written(path: Path, explanation: Explanation | Answers) -> dict[str, Any]:
    text = write_page(path, [(NAME, explanation)])[0].read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])["pictures"][0]


def answers() -> Answers:
    """What became of three digits, of which the model does not know the last one's class."""
    digits = read_digits("val", images=1, size=96)
    objects = digits.objects(0)
    found = why_missed(small_model("dino-compact", classes=list(digits.categories)), digits, 0)
    unknown = dataclasses.replace(
        found.objects[0], verdict=Verdict("unknown class"), sentence="ghost: the model does not know this class",
        category="ghost", scores=np.zeros(0, np.float32), ious=np.zeros(0, np.float32), explained=None,
    )  # fmt: skip
    assert len(objects.labels) >= 2
    return dataclasses.replace(found, objects=(*found.objects[:2], unknown))


def photo_width(stored: dict[str, Any]) -> int:
    with Image.open(io.BytesIO(base64.b64decode(stored["photo"].partition(",")[2]))) as photo:
        return photo.width


def unpacked(seen: dict[str, Any]) -> np.ndarray:
    shares = [np.frombuffer(base64.b64decode(each), np.uint8) for each in seen["weights"]]
    return np.stack(shares) / 255 * np.array(seen["largest"])[:, None]


def test_maps_and_predictions_are_those_of_the_explanation(tmp_path: Path) -> None:
    explanation = explain(small_model("smca-detr-compact"), picture(), query=3)
    (subject,) = written(tmp_path / "page.html", explanation)["subjects"]
    (query,) = explanation.queries
    assert len(subject["looks"]) == len(query.looks) == 2
    for stored, look in zip(subject["looks"], query.looks, strict=True):
        for own, other in ((stored["seen"], look.maps), (stored["gaussian"], look.gaussians)):
            assert other is not None
            assert own["sizes"] == [list(each.shape[1:]) for each in other.weights]
            wanted = np.concatenate([each.reshape(len(each), -1) for each in other.weights], axis=1)
            np.testing.assert_allclose(unpacked(own), wanted, atol=wanted.max() / 500)
    for stored, prediction in zip(subject["predictions"], query.predictions, strict=True):
        assert stored["score"] == pytest.approx(prediction.scores.max())
        np.testing.assert_allclose(stored["box"], prediction.box_xyxy, atol=0.06)
        np.testing.assert_allclose(stored["reference"], prediction.reference, atol=0.06)


def test_points_are_those_of_the_explanation(tmp_path: Path) -> None:
    explanation = explain(small_model("deformable-detr-compact-two-stage"), picture(), query=0)
    (subject,) = written(tmp_path / "page.html", explanation)["subjects"]
    points = explanation.queries[0].looks[1].points
    stored = subject["looks"][1]["seen"]
    np.testing.assert_allclose(stored["xy"], points.xy, atol=0.06)
    assert points.levels is not None
    assert stored["point_levels"] == points.levels.tolist()
    np.testing.assert_allclose(unpacked(stored), points.weights, atol=points.weights.max() / 500)
    start = explanation.queries[0].start
    assert start is not None
    assert subject["start"]["level"] == start.level


def test_objects_come_with_their_sentence_and_the_overlap_of_each_layer(tmp_path: Path) -> None:
    wanted = answers()
    *known, unknown = written(tmp_path / "page.html", wanted)["subjects"]
    for number, (stored, answer) in enumerate(zip(known, wanted.objects, strict=False)):
        assert stored["name"] == f"object {number}, {answer.category}: {answer.verdict.reason}"
        assert stored["said"] == answer.sentence
        np.testing.assert_allclose(stored["object"], answer.box_xyxy, atol=0.06)
        np.testing.assert_allclose([each["iou"] for each in stored["predictions"]], answer.ious, rtol=1e-6)
        assert answer.explained is not None
        np.testing.assert_allclose(
            [each["box"] for each in stored["predictions"]],
            [each.box_xyxy for each in answer.explained.predictions],
            atol=0.06,
        )
    assert (unknown["name"], unknown["predictions"], unknown["looks"]) == ("object 2, ghost: unknown class", [], [])


def test_photos_become_smaller_until_the_page_is_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = explain(small_model("detr-compact"), picture(1500, 900), query=0)
    assert photo_width(written(tmp_path / "page.html", explanation)) == 1280
    monkeypatch.setattr(page_module, "LARGEST_FILE", 400_000)
    stored = written(tmp_path / "page.html", explanation)
    assert photo_width(stored) < 1280
    assert (stored["width"], stored["height"]) == (1500, 900)
    assert (tmp_path / "page.html").stat().st_size <= 400_000
    monkeypatch.setattr(page_module, "LARGEST_FILE", 10_000)
    with pytest.raises(
        ConfigurationError,
        match=rf"the page of {re.escape(NAME)} would have .* MB, more than .*: choose layers or heads",
    ):
        write_page(tmp_path / "page.html", [(NAME, explanation)])
    assert not (tmp_path / "page.html").exists()  # that of other pictures would be taken for this one's


def test_pictures_that_have_no_room_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = explain(small_model("detr-compact"), picture(), query=0)
    path, shown = write_page(tmp_path / "page.html", [(NAME, explanation)] * 5)
    assert shown == 5
    monkeypatch.setattr(page_module, "LARGEST_FILE", path.stat().st_size // 2)
    path, shown = write_page(tmp_path / "page.html", [(NAME, explanation)] * 5)
    assert 1 <= shown < 5
    assert path.stat().st_size <= page_module.LARGEST_FILE


def test_a_picture_that_is_too_large_alone_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("detr-compact")
    small, large = (explain(model, picture(side, side), query=0) for side in (32, 1280))
    path = tmp_path / "page.html"
    monkeypatch.setattr(page_module, "_PHOTOS", ((1280, 85),))
    monkeypatch.setattr(page_module, "LARGEST_FILE", write_page(path, [("small", small)] * 2)[0].stat().st_size)
    assert write_page(path, [("first", small), ("large", large), ("third", small)]) == (path, 2)
    assert [name in path.read_text() for name in ('"name":"first"', '"name":"large"', '"name":"third"')] == [
        True,
        False,
        True,
    ]
    assert path.stat().st_size <= page_module.LARGEST_FILE


def seen_in_browser(shown: Explanation | Answers, width: int, folder: Path) -> dict[str, Any]:
    """What a browser of some width made of the page; it fits, and nothing is said in the console."""
    browser = installed_browser()
    written(folder / "page.html", shown)
    (folder / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    options = ("--window-size=1400,1000", "--virtual-time-budget=4000", "--dump-dom")
    document, console = run(browser, folder, folder / "frame.html", *options)
    found = re.search(r'<pre id="facts">(.*?)</pre>', document, flags=re.DOTALL)
    assert console == []
    assert found is not None
    facts: dict[str, Any] = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert facts["width"] == facts["scroll"] == width
    return facts


@pytest.mark.parametrize("width", WIDTHS)
def test_objects_in_a_browser(width: int, tmp_path: Path) -> None:
    wanted = answers()
    facts = seen_in_browser(wanted, width, tmp_path)
    assert facts["sentences"][0].startswith(f"{wanted.objects[0].sentence}. Shown is where heads")
    assert (facts["cells"], facts["overlap"]) == (5, True)
    assert facts["last"] == "ghost: the model does not know this class."


def test_a_picture_without_objects_says_so(tmp_path: Path) -> None:
    browser = installed_browser()
    path, _ = write_page(tmp_path / "page.html", [(NAME, dataclasses.replace(answers(), objects=()))])
    document, console = run(browser, tmp_path, path, "--virtual-time-budget=2000", "--dump-dom")
    assert console == []
    assert '<p id="sentence" aria-live="polite">No object is annotated in this picture.</p>' in document


def test_a_picture_in_which_nothing_is_found_says_so(tmp_path: Path) -> None:
    explanation = explain(small_model("detr-compact"), picture(), query=0)
    second = dataclasses.replace(explanation, queries=())
    browser = installed_browser()
    path, _ = write_page(tmp_path / "page.html", [("first", second), ("second", explanation)])
    document, console = run(browser, tmp_path, path, "--virtual-time-budget=2000", "--dump-dom")
    assert console == []
    assert '<p id="sentence" aria-live="polite">Nothing is found in this picture.</p>' in document


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("variant", "hovered"),
    [
        ("smca-detr-compact", r"x 60, y 72\. level 0, row 4, column 3: [\d.]+ %"),
        (
            "deformable-detr-compact-two-stage",
            r"x 60, y 72\. Nearest point: x -?\d+, y -?\d+, head \d, level \d, weight [\d.]+ %",
        ),
        ("tsp-rcnn-compact", r"x 60, y 72\. Nearest point: x -?\d+, y -?\d+, head \d, weight [\d.]+ %"),
    ],
)
def test_the_page_works_in_a_browser(variant: str, hovered: str, width: int, tmp_path: Path) -> None:
    explanation = explain(small_model(variant, encoder_layers=2), picture(), query=0)
    categories = (Category(0, 0, "<i>a & b"), *explanation.categories[1:])
    facts = seen_in_browser(dataclasses.replace(explanation, categories=categories), width, tmp_path)
    assert (facts["cells"], facts["overlap"]) == (4, False)
    assert facts["changed"]
    assert facts["second"] == (variant == "smca-detr-compact") == facts.get("gaussian", False)
    part = "encoder" if variant.startswith("tsp") else "decoder"
    first, layer, head, *_, back = facts["sentences"]
    heads = ", ".join(map(str, explanation.queries[0].looks[0].heads))
    assert f"where heads {heads} together looked in {part} layer 0." in first
    assert f"where heads {heads} together looked in {part} layer 1." in layer
    assert f"where head 1 looked in {part} layer 1." in head
    assert f"where head 1 looked in {part} layer 0." in back
    assert all(re.fullmatch(hovered, words) for words in facts["hovered"]), facts["hovered"]
    assert facts["rows"] == len(explanation.queries[0].predictions)
    assert facts["picture"] == facts["only"] == NAME
    assert facts["canvas"] == facts["shown"] > picture().width / 2  # not the photo's own few pixels
