"""Pictures of a report: what is drawn, in which colours, and of which images; real photos stay below five megabytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.made_analysis import made_analysis, made_images
from matplotlib.colors import to_rgb
from PIL import Image, ImageColor

from detrkit.data import DetectionDataset, open_dataset, read_digits
from detrkit.evaluation import evaluate_in_detail
from detrkit.evaluation.errors import KINDS, Mark
from detrkit.evaluation.report import Photo, evaluation_sections, example_pictures, worst_pictures, write_report
from detrkit.evaluation.report import pictures as pictures_module
from detrkit.evaluation.report.pictures import MARK_COLORS, MARK_WORDS, draw_marks, draw_truth, enlarged, masks_at
from detrkit.prediction.labels import draw_labels


def has_color(picture: Image.Image, color: str) -> bool:
    """Whether some pixels have this colour, exactly."""
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    return int((np.abs(pixels - np.round(255 * np.array(to_rgb(color)))).max(axis=1) <= 1).sum()) > 10


@pytest.mark.parametrize("kind", MARK_COLORS)
def test_a_box_has_the_colour_of_its_kind(kind: str) -> None:
    mark = Mark(kind, (20.0, 30.0, 40.0, 30.0), 5, None if kind in ("missed", "mistaken") else 0.5)
    drawn = draw_marks(Image.new("RGB", (400, 300), (10, 10, 10)), [mark], {5: "cat"}, 2.0)
    assert has_color(drawn, MARK_COLORS[kind])
    assert not any(has_color(drawn, color) for other, color in MARK_COLORS.items() if other != kind)
    quiet = kind in ("correct", "ignored")
    # A quiet box is a thin line; an error has a thick one and a label.
    edge = np.asarray(drawn)[116:125, 90].max(axis=1) > 60
    assert edge.sum() == 1 if quiet else edge.sum() >= 3


def test_labels_name_the_class_the_score_and_the_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def record(scene: Any, boxes: Any, texts: list[str], fills: Any, **rest: Any) -> None:
        shown.extend(texts)
        draw_labels(scene, boxes, texts, fills, **rest)

    monkeypatch.setattr(pictures_module, "draw_labels", record)
    draw_marks(Image.new("RGB", (300, 300)), made_images()[0].marks, {5: "cat", 6: "dog"}, 1.0)
    assert shown == [
        "cat 0.70 nothing there", "cat 0.65 duplicate", "cat 0.60 wrong class, place", "cat 0.55 wrong place",
        "cat 0.50 wrong class", "dog not found", "cat missed",
    ]  # fmt: skip


def test_many_errors_are_drawn_but_only_the_surest_are_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr(pictures_module, "draw_labels", lambda scene, boxes, texts, fills, **rest: shown.append(texts))
    marks = [Mark("background", (5.0 * number, 5.0, 4.0, 4.0), 5, number / 100) for number in range(30)]
    draw_marks(Image.new("RGB", (300, 300)), marks, {5: "cat"}, 1.0)
    assert [label.split()[1] for label in shown[0]] == [f"{number / 100:.2f}" for number in range(29, 15, -1)]


def test_annotated_objects_have_thick_lines_and_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[str]] = []
    monkeypatch.setattr(pictures_module, "draw_labels", lambda scene, boxes, texts, fills, **rest: shown.append(texts))
    box = (20.0, 20.0, 60.0, 60.0)
    marks = [Mark("correct", box, 5, None), Mark("ignored", box, 6, None)]
    picture = draw_truth(Image.new("RGB", (100, 100)), marks[:1], {5: "cat"}, 1.0)
    edge = np.asarray(picture)[50, 10:30]
    assert (edge == np.array(ImageColor.getrgb(MARK_COLORS["correct"]))).all(-1).sum() >= 3
    draw_truth(Image.new("RGB", (100, 100)), marks, {5: "cat", 6: "dog"}, 1.0)
    assert shown == [["cat"], ["cat", "dog in a crowd region"]]


def test_the_worst_images_come_first_with_what_is_wrong() -> None:
    digits = read_digits("val", images=4, size=64)
    analysis = made_analysis()
    first, second = worst_pictures(digits, analysis)
    assert first.name == "errors_1"
    assert first.caption.startswith(
        "<one>.png: 4 objects, 1 found, 1 with a wrong detection near; 1 wrong class, 1 wrong place, 1 wrong class and place,"
    )
    assert second.caption == f"{digits.image_name(1)}: 2 objects, 1 found; 1 missed."
    assert first.labels == ("Detections", "Ground truth")
    left, right = first.images
    for kind in KINDS:
        assert has_color(right if kind == "missed" else left, MARK_COLORS[kind])
    assert not has_color(left, MARK_COLORS["missed"])
    assert has_color(right, MARK_COLORS["mistaken"])
    assert has_color(right, MARK_COLORS["correct"])
    assert len(worst_pictures(digits, analysis, count=1)) == 1
    assert set(MARK_WORDS) == set(MARK_COLORS) == {*KINDS, "correct", "ignored", "mistaken"}


def test_small_pictures_are_enlarged_and_large_ones_shrink() -> None:
    assert (enlarged(Image.new("L", (100, 50)))[0].size, enlarged(Image.new("L", (100, 50)))[1]) == ((400, 200), 4.0)
    assert enlarged(Image.new("RGB", (4000, 1000)))[0].size == (800, 200)
    assert enlarged(Image.new("RGB", (1000, 4000)))[0].size == (200, 800)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], list[list[float]]]]:
    drawn: list[tuple[list[str], list[list[float]]]] = []

    def record(image: Image.Image, detections: Any) -> Image.Image:
        drawn.append((detections.data["class_name"].tolist(), detections.xyxy.tolist()))
        return image

    monkeypatch.setattr(pictures_module, "draw", record)
    return drawn


def test_examples_are_spread_over_the_data_set_and_show_what_passes_the_threshold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = recorded(monkeypatch)
    digits = read_digits("val", images=5, size=64)
    last, category = int(digits.image_ids[-1]), digits.categories[3]
    entries = [
        {"image_id": last, "category_id": category.id, "bbox": [1, 2, 3, 4], "score": score} for score in (0.5, 0.4)
    ]
    photos = example_pictures(digits, entries, threshold=0.5, count=2)
    (none, _), (_, truth), (names, boxes), _ = drawn
    assert none == []
    assert len(truth) == len(digits.objects(0))
    np.testing.assert_allclose(truth, 4 * digits.objects(0).boxes_xyxy)
    assert (names, boxes) == ([category.name], [[4.0, 8.0, 16.0, 24.0]])
    assert photos[1].caption.startswith(f"{digits.image_name(4)}: 1 detection, ")
    assert [photo.name for photo in photos] == ["example_1", "example_2"]
    drawn.clear()
    example_pictures(digits, entries, threshold={category.id: 0.3}, count=1)
    example_pictures(digits.subset([4]), entries, threshold={category.id: 0.3})
    assert len(drawn[2][0]) == 2


def with_text_ids(digits: DetectionDataset) -> DetectionDataset:
    names = np.array([f"picture {number}" for number in range(len(digits))], dtype=object)
    return replace(
        digits, file_image_ids=names, file_category_ids={entry.id: f"digit {entry.name}" for entry in digits.categories}
    )


def test_entries_may_have_the_ids_of_the_annotation_file(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = with_text_ids(read_digits("val", images=2, size=64))
    entry = {"image_id": "picture 1", "category_id": "digit 3", "bbox": [1, 2, 3, 4], "score": 0.9}
    unknown = {**entry, "image_id": "picture 9"}
    drawn = recorded(monkeypatch)
    example_pictures(digits, [entry, unknown], threshold=0.5)
    assert [names for names, _ in drawn[::2]] == [[], ["3"]]


def test_images_with_text_ids_are_found_again() -> None:
    digits = with_text_ids(read_digits("val", images=3, size=64))
    entry = {"image_id": "picture 2", "category_id": "digit 3", "bbox": [1, 2, 3, 4], "score": 0.9}
    _, analysis = evaluate_in_detail(digits.to_coco(own_ids=True), [entry])
    worst = worst_pictures(digits, analysis)
    assert {photo.caption.split(":")[0] for photo in worst} == {digits.image_name(index) for index in range(3)}
    (photo,) = (photo for photo in worst if photo.caption.startswith(f"{digits.image_name(2)}:"))
    assert f"{len(digits.objects(2))} objects, 0 found" in photo.caption


def test_a_report_of_real_detections_with_photos(shared: Path, tmp_path: Path) -> None:
    results = shared / "data/evaluator/coco_val_detections_deimv2_hgnetv2_femto.json"
    dataset = open_dataset(shared / "data/coco", "val")
    entries: list[dict[str, Any]] = json.loads(results.read_text())
    evaluation, analysis = evaluate_in_detail(dataset.to_coco(), entries, name=dataset.name)
    sections = evaluation_sections(evaluation, analysis, dataset, entries)
    file = write_report(tmp_path / "report.html", "A result file", sections)
    text = file.read_text()
    assert ">0.332<" in text
    assert text.count("data:image/jpeg") == 2 * (8 + 6)
    assert "000000376322.jpg: 42 objects" in text
    assert 1_000_000 < file.stat().st_size < 5_000_000


@pytest.mark.slow
def test_a_report_of_large_photos_stays_below_five_megabytes(shared: Path, tmp_path: Path) -> None:
    dataset = open_dataset(shared / "data/roboflow_sample", "train")
    photos: list[Photo] = []
    for round_ in range(3):
        photos += [
            replace(each, name=f"{each.name}_{round_}")
            for each in example_pictures(dataset, [], threshold=0.5, count=9)
        ]
    evaluation, analysis = evaluate_in_detail(dataset.to_coco(), [], name=dataset.name)
    sections = evaluation_sections(evaluation, analysis, dataset, [], pictures=24)
    sections[-1] = replace(sections[-1], blocks=(*sections[-1].blocks, *photos))
    file = write_report(tmp_path / "report.html", "Large photos", sections)
    assert file.stat().st_size < 5_000_000
    assert file.read_text().count("data:image/jpeg") >= 2 * 24


def test_a_report_shows_the_masks_of_both_sides(shared: Path) -> None:
    """Detections that are the ground truth, but for the class of one: its mask has the colour of the error, the others that of correct ones."""
    dataset = open_dataset(shared / "data/coco", "val", masks="panoptic").subset([0])
    objects = dataset.objects(0)
    assert objects.masks is not None
    encoded = [{**each, "counts": each["counts"].decode()} for each in objects.masks.run_lengths()]
    truth = dataset.to_coco()
    entries = [
        {**{key: each[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9, "segmentation": mask}
        for each, mask in zip(truth["annotations"], encoded, strict=True)
    ]
    largest = int(np.argmax(objects.areas))
    used = {entry["category_id"] for entry in entries}
    entries[largest]["category_id"] = next(each.id for each in dataset.categories if each.id not in used)
    _, analysis = evaluate_in_detail(truth, entries)
    plain = worst_pictures(replace(dataset, masks=None), analysis)[0]
    (photo,) = worst_pictures(dataset, analysis, entries)
    inside = masks_at([encoded[largest]], photo.images[0].size)[0]
    for shown, before, kind in zip(photo.images, plain.images, ("class", "mistaken"), strict=True):
        color = np.array(ImageColor.getrgb(MARK_COLORS[kind]))
        distances = [
            np.abs(np.asarray(each, dtype=int) - color).sum(axis=-1)[inside].mean() for each in (shown, before)
        ]
        assert distances[0] < 0.8 * distances[1]
    without = example_pictures(replace(dataset, masks=None), [], threshold=0.5, count=1)[0]
    (example,) = example_pictures(dataset, entries, threshold=0.5, count=1)
    changed = [
        (np.asarray(each) != np.asarray(without.images[0])).any(axis=-1)[inside].mean() for each in example.images
    ]
    assert min(changed) > 0.9


def test_masks_of_entries_in_a_picture_of_another_size() -> None:
    whole = {"size": [2, 4], "counts": [2, 2, 4]}  # the second column
    masks = masks_at([whole, [[0, 0, 1, 0, 1, 1]]], (8, 4))
    assert masks.shape == (2, 4, 8)
    assert masks[0].any(axis=0).tolist() == [False, False, True, True, False, False, False, False]
    assert masks[0][:, 2:4].all()
    assert not masks[1].any()
