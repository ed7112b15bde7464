"""Figures of masks equal those of pycocotools; masks that cannot be compared are refused or left out with a sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_cases import reference
from pycocotools import mask as coco_masks
from rich.console import Console

import detrkit
from detrkit.data import read_digits
from detrkit.errors import DataError
from detrkit.evaluation import Evaluation, evaluate_detections, evaluate_in_detail, runner
from detrkit.evaluation.report import evaluation_sections, write_report
from detrkit.evaluation.tables import detailed_table
from detrkit.prediction.looking import Looked
from detrkit.structures import Detections, ImageBatch

TOLERANCE = 1e-12


def square(left: int, top: int, side: int, *, height: int = 40, width: int = 50) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def truth(*outlines: Any) -> dict[str, Any]:
    """One image with a cat for each outline; its boxes are squares of 10 pixels."""
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 50}],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 5, "bbox": [0, 0, 10, 10], "area": 100, "segmentation": outline, "iscrowd": 0}
            for number, outline in enumerate(outlines, start=1)
        ],
    }  # fmt: skip


def found(segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 5, "score": 0.9, "segmentation": segmentation, **more}


OUTLINE = [[0, 0, 10, 0, 10, 10, 0, 10]]
MASK = rle(square(0, 0, 10))


def files(shared: Path) -> tuple[Path, Path]:
    folder = shared / "data/evaluator"
    return folder / "instances_val2014_100.json", folder / "instances_val2014_fakesegm100_results.json"


def test_the_example_of_the_coco_api(shared: Path) -> None:
    evaluation = evaluate_detections(*files(shared))
    expected = json.loads((shared / "data/evaluator/expected.json").read_text())["segm"]
    assert evaluation.masks is not None
    assert len(evaluation.masks.figures) == 12
    for name, value in evaluation.masks.figures.items():
        assert value == pytest.approx(expected[name.replace("AR1", "AR_1")], abs=TOLERANCE), name
    shown = [round(value or 0, 3) for value in evaluation.masks.figures.values()]
    assert shown[:3] == [0.320, 0.562, 0.299]

    evaluator = reference(*(json.loads(file.read_text()) for file in files(shared)), kind="segm")
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    for index, entry in enumerate(evaluation.masks.classes):
        assert entry.id == evaluation.classes[index].id
        if entry.ap is None:
            assert (precision[:, :, index] == -1).all()
        else:
            assert entry.ap == pytest.approx(precision[:, :, index].mean(), abs=TOLERANCE)


def test_boxes_that_are_missing_are_those_of_the_masks(shared: Path) -> None:
    truth_file, results_file = files(shared)
    results = json.loads(results_file.read_text())
    boxed = [
        {key: value for key, value in entry.items() if key != "segmentation"}
        | {"bbox": coco_masks.toBbox(entry["segmentation"]).tolist()}
        for entry in results
    ]
    of_boxes, of_masks = evaluate_detections(truth_file, boxed), evaluate_detections(truth_file, results)
    assert of_masks.figures == of_boxes.figures
    assert of_boxes.masks is None


def test_the_size_of_a_detection_is_that_of_its_mask_also_beside_a_box(shared: Path) -> None:
    truth_file, results_file = files(shared)
    results = [entry | {"bbox": [0, 0, 9, 9]} for entry in json.loads(results_file.read_text())]
    masks = evaluate_detections(truth_file, results).masks
    expected = json.loads((shared / "data/evaluator/expected.json").read_text())["segm"]
    assert masks is not None
    assert masks.figures["AP_small"] == pytest.approx(expected["AP_small"], abs=TOLERANCE)


@pytest.mark.parametrize(
    "segmentation",
    [
        MASK,
        MASK | {"counts": MASK["counts"].encode()},
        {"size": [40, 50], "counts": [0, *[10, 30] * 9, 10, 1630]},
        OUTLINE,
        [OUTLINE[0][:6] + OUTLINE[0][:2], OUTLINE[0]],
    ],
    ids=["text", "bytes", "numbers", "outline", "outlines"],
)
def test_masks_are_run_lengths_or_outlines(segmentation: Any) -> None:
    given = truth(OUTLINE), [found(segmentation)]
    before = copy.deepcopy(given)
    evaluation = evaluate_detections(*given)
    assert given == before
    assert evaluation.masks is not None
    assert evaluation.masks.figures["AP"] == evaluation.figures["AP"] == pytest.approx(1.0)


def test_masks_decide_where_boxes_agree() -> None:
    corner = np.tril(np.ones((10, 10), dtype=bool))
    mask = square(0, 0, 0)
    mask[:10, :10] = corner
    evaluation = evaluate_detections(truth(OUTLINE), [found(rle(mask), bbox=[0, 0, 10, 10])])
    assert evaluation.masks is not None
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert evaluation.masks.figures["AP50"] == pytest.approx(1.0)
    assert evaluation.masks.figures["AP75"] == 0.0  # 55 of 100 pixels


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            {"size": [50, 40], "counts": MASK["counts"]},
            "of the size [50, 40], and its image has [40, 50] (a size is [height, width])",
        ),
        ({"size": [40], "counts": MASK["counts"]}, "has a segmentation with the size [40]"),
        ({"counts": MASK["counts"]}, "has a segmentation with the size None"),
        ({"size": [40, 50]}, "has a segmentation without counts"),
        ({"size": [40, 50], "counts": [5, 5]}, "run lengths do not add up to 50 x 40 pixels"),
        ({"size": [40, 50], "counts": [-1, 2001]}, "whose counts are no whole numbers"),
        ({"size": [40, 50], "counts": MASK["counts"][:-1]}, "run lengths do not add up to 50 x 40 pixels"),
        ({"size": [40, 50], "counts": "é"}, "run lengths do not add up to 50 x 40 pixels"),
        ({"size": [40, 50], "counts": "o" * 40}, "run lengths do not add up to 50 x 40 pixels"),
        ([[1, 2, 3, 4]], "neither run lengths nor a list of outlines"),
        ([[0, 0, 5, float("nan"), 5, 5]], "neither run lengths nor a list of outlines"),
        ([[0, 0, 1e12, 3, 5, 5]], "neither run lengths nor a list of outlines"),
        ("mask.png", "neither run lengths nor a list of outlines"),
    ],
)
def test_masks_that_do_not_fit_are_named(segmentation: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        evaluate_detections(truth(OUTLINE), [found(MASK), found(segmentation)])
    assert "the given detections, entry 1 (counting from 0) " in str(caught.value)
    assert message in str(caught.value)


def test_all_entries_have_a_mask_or_none() -> None:
    entries = [found(MASK), found([], bbox=[0, 0, 10, 10]), found(None, bbox=[0, 0, 10, 10])]
    with pytest.raises(
        DataError, match=r"entry 1 .* has no segmentation, and other entries have one \(2 of 3 entries have none\)"
    ):
        evaluate_detections(truth(OUTLINE), entries)
    assert evaluate_detections(truth(OUTLINE), entries[1:]).masks is None


def test_outlines_of_boxes_are_no_masks() -> None:
    boxed = found([[0, 0, 0, 10, 10, 10, 10, 0]], bbox=[0, 0, 10, 10])  # as pycocotools adds them
    assert evaluate_detections(truth(OUTLINE), [boxed, boxed]).masks is None
    real = evaluate_detections(truth(OUTLINE), [boxed, found(MASK)]).masks
    assert real is not None
    assert real.figures["AP"] == pytest.approx(1.0)


def test_ground_truth_without_outlines_is_said() -> None:
    evaluation = evaluate_detections(truth([], []), [found(MASK)])
    assert evaluation.masks is None
    assert evaluation.notes == (
        "the given ground truth has no outlines, so the masks of the detections were not compared.",
    )
    evaluation = evaluate_detections(truth(OUTLINE, []), [found(MASK)])
    assert evaluation.masks is not None
    assert evaluation.notes == (
        "1 of 2 objects has no outline, and the box is taken for the mask (the first: annotation 2).",
    )
    assert evaluation.masks.figures["AR10"] == pytest.approx(0.5)


def test_sizes_that_the_ground_truth_does_not_state_are_said() -> None:
    given = truth(OUTLINE)
    del given["images"][0]["height"]
    evaluation = evaluate_detections(given, [found(MASK)])
    assert evaluation.masks is None
    assert "does not state the height and width of 1 of 1 image" in evaluation.notes[0]
    with pytest.raises(DataError, match="add height and width to its images"):
        evaluate_detections(given, [found(OUTLINE)])


def test_outlines_of_the_ground_truth_that_cannot_be_used_are_named() -> None:
    with pytest.raises(
        DataError, match=r"the given ground truth: annotation 2 has run lengths \(RLE\) of the size \[5, 5\]"
    ):
        evaluate_detections(truth(OUTLINE, rle(np.ones((5, 5)))), [found(MASK)])


def test_without_masks_of_detections_those_of_the_ground_truth_do_not_matter() -> None:
    odd = truth(OUTLINE, rle(np.ones((5, 5))))
    assert evaluate_detections(odd, [found(None, bbox=[0, 0, 10, 10])]).masks is None


def test_boxes_and_masks_stand_side_by_side(shared: Path, tmp_path: Path) -> None:
    evaluation, analysis = evaluate_in_detail(*files(shared))
    for part in (evaluation.table(), detailed_table(evaluation, analysis)):
        console = Console(width=120, record=True)
        console.print(part)
        lines = [line.split() for line in console.export_text().splitlines()]
        assert any(line[:2] == ["figure", "boxes"] and "masks" in line for line in lines)
        (ap,) = (line for line in lines if line and line[0] == "AP")
        assert "0.320" in ap
        assert ap.index("0.483") < ap.index("0.320")
    assert "AP 0.483, AP50 0.696, AP75 0.541, masks AP 0.320" in repr(evaluation)
    html = evaluation._repr_html_()
    assert "mask AP" in html
    assert "0.320" in html
    again = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
    assert again.masks is not None
    assert evaluation.masks is not None
    assert again.masks.figures == evaluation.masks.figures
    assert [entry.ap for entry in again.masks.classes] == [entry.ap for entry in evaluation.masks.classes]
    page = write_report(tmp_path / "report.html", "Masks", evaluation_sections(evaluation, analysis)).read_text()
    assert "Mask AP" in page
    assert page.count("0.320") >= 2


def test_reports_without_masks_do_not_name_them() -> None:
    evaluation = evaluate_detections(truth(OUTLINE), [found(None, bbox=[0, 0, 10, 10])])
    assert evaluation.value_columns() == ("value",)
    assert "mask" not in evaluation._repr_html_().lower()
    older = {key: value for key, value in evaluation.to_json().items() if key != "masks"}
    assert Evaluation.from_json(older).masks is None


@pytest.mark.parametrize("nms", [None, 0.7])
def test_masks_of_a_model_come_into_its_entries(monkeypatch: pytest.MonkeyPatch, nms: float | None) -> None:
    dataset = read_digits("val", images=2, size=64)
    model = detrkit.build("detr-compact", classes=[category.name for category in dataset.categories])
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, 10:20, 5:30] = masks[1, 40:50, 40:60] = masks[2, 10:20, 5:30] = True
    detections = Detections(
        scores=torch.tensor([0.9, 0.8, 0.7]),
        labels=torch.tensor([1, 2, 1]),
        boxes_xyxy=torch.tensor([[5.0, 10, 30, 20], [40, 40, 60, 50], [5, 10, 30, 20]]),
        queries=torch.arange(3),
        masks=masks,
    )
    asked = []

    def looked(model: object, select: object, batch: ImageBatch, *, masks: bool) -> Looked:
        asked.append(masks)
        return Looked([detections] * len(batch.image_ids))  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "look", looked)
    entries = runner.detect(model, dataset, nms=nms)
    assert len(entries) == 2 * (3 if nms is None else 2)
    decoded = [coco_masks.decode(entry["segmentation"]).astype(bool) for entry in entries]
    assert (decoded[0] == masks[0].numpy()).all()
    assert (decoded[1] == masks[1].numpy()).all()
    assert json.loads(json.dumps(entries)) == entries
    assert not any(asked)  # the built-in digits have no masks to compare with


def test_masks_of_a_data_set_are_compared_with_those_of_a_model(shared: Path) -> None:
    dataset = detrkit.open_dataset(shared / "data/coco", "val", masks="instances").subset(range(6))
    model = detrkit.build("detr-compact-panoptic", classes=list(dataset.categories))
    content = json.loads((shared / "data/coco/annotations/instances_val.json").read_text())
    chosen = set(dataset.image_ids.tolist())
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in chosen]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    generator = np.random.default_rng(0)
    entries = []
    for entry in content["annotations"]:
        outline = entry["segmentation"]
        height, width = sizes[entry["image_id"]]
        encoded = coco_masks.frPyObjects(outline, height, width)
        mask = coco_masks.decode(coco_masks.merge(encoded) if isinstance(encoded, list) else encoded)
        moved = np.roll(mask, int(generator.integers(0, 4)), axis=1).astype(bool)
        score = float(generator.random())
        entries.append(
            {
                "image_id": entry["image_id"],
                "category_id": entry["category_id"],
                "score": score,
                "segmentation": rle(moved),
            }
        )
    evaluation = runner.compare(model, dataset, entries)
    expected = reference(content, entries, kind="segm")
    assert evaluation.masks is not None
    assert evaluation.masks.figures["AP"] == pytest.approx(expected.stats[0], abs=1e-9)
    assert 0.3 < expected.stats[0] < 0.99
