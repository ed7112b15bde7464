"""What an inspection finds in masks: each kind in a small data set that has it, and nothing in real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspected_data import GOOD, write_split
from PIL import Image

from detrkit.data import coco_panoptic, open_dataset
from detrkit.data.inspection import Finding, Split, mask_findings
from detrkit.evaluation import inspect_data

KINDS_OF_MASKS = {
    "damaged-masks", "segments-differ", "segments-unlike-pixels", "masks-without-pixels", "masks-beside-boxes", "unreadable",
}  # fmt: skip


def found(splits: list[Split]) -> list[tuple[str, str, str]]:
    return [(each.kind, each.severity, each.message) for each in mask_findings(splits)]


def of_masks(findings: tuple[Finding, ...]) -> list[Finding]:
    return [each for each in findings if each.kind in KINDS_OF_MASKS]


@pytest.mark.parametrize("masks", ["instances", "panoptic"])
def test_real_files_have_none(shared: Path, masks: Any) -> None:
    inspection = inspect_data(shared / "data/coco", "val", masks=masks)
    assert of_masks(inspection.findings) == []
    assert inspection.exit_code == 0
    assert inspection.decoded == {"instances": 120, "panoptic": 13}[masks]


def test_boxes_that_two_segments_share_are_no_copies(shared: Path) -> None:
    """Grass and dirt both reach from edge to edge in one of the pictures."""
    inspection = inspect_data(shared / "data/coco", "train", masks="panoptic", quick=True)
    assert [each.kind for each in inspection.findings if each.severity != "note"] == []


class TestSegments:
    @pytest.fixture
    def panoptic(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Three pictures with one segment each, of which opening compares the first alone."""
        monkeypatch.setattr(coco_panoptic, "_CHECKED", 1)
        for folder in ("annotations", "panoptic_val", "val"):
            (tmp_path / folder).mkdir()
        colours = np.zeros((30, 40, 3), np.uint8)
        colours[3:9, 2:10, 0] = 7
        for number in (1, 2, 3):
            Image.fromarray(colours + 9).save(tmp_path / f"val/{number}.jpg")
            Image.fromarray(colours).save(tmp_path / f"panoptic_val/{number}.png")
        segment = {"id": 7, "category_id": 1, "iscrowd": 0, "bbox": [2, 3, 8, 6], "area": 48}
        contents = {
            "images": [{"id": number, "file_name": f"{number}.jpg", "width": 40, "height": 30} for number in (1, 2, 3)],
            "annotations": [
                {"image_id": number, "file_name": f"{number}.png", "segments_info": [dict(segment)]}
                for number in (1, 2, 3)
            ],
            "categories": [{"id": 1, "name": "cat", "isthing": 1}],
        }
        contents["annotations"][1]["segments_info"][0]["area"] = 40
        (tmp_path / "annotations/panoptic_val.json").write_text(json.dumps(contents))
        colours[20:22, 20:23, 1] = 2
        Image.fromarray(colours).save(tmp_path / "panoptic_val/3.png")
        return tmp_path

    def test_ids_areas_and_boxes_of_pictures_that_opening_did_not_compare(self, panoptic: Path) -> None:
        split = Split("val", open_dataset(panoptic, "val", masks="panoptic"))
        assert found([split]) == [
            (
                "segments-unlike-pixels",
                "warning",
                "1 of 3 segments has another box or area than the pixels (segment 7 of 2.jpg).",
            ),
            (
                "segments-differ",
                "error",
                "1 id is only in the pixels or only in the list (id 512 of 3.jpg is not listed).",
            ),
        ]
        assert inspect_data(panoptic, "val", masks="panoptic").exit_code == 1

    def test_a_segment_without_pixels(self, panoptic: Path) -> None:
        dataset = open_dataset(panoptic, "val", masks="panoptic")
        Image.new("RGB", (40, 30)).save(panoptic / "panoptic_val/3.png")
        (_, second) = found([Split("val", dataset)])
        assert second[2] == "1 id is only in the pixels or only in the list (segment 7 of 3.jpg has no pixel)."

    def test_a_damaged_file(self, panoptic: Path) -> None:
        dataset = open_dataset(panoptic, "val", masks="panoptic")
        (panoptic / "panoptic_val/1.png").write_bytes(b"nothing")
        first, *_ = found([Split("val", dataset)])
        assert first[0] == "damaged-masks"
        assert "1 of 3 masks cannot be decoded" in first[2]
        assert "panoptic_val/1.png is not a readable image file" in first[2]

    def test_what_opening_finds_is_a_finding_too(self, panoptic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(coco_panoptic, "_CHECKED", 10)
        Image.new("RGB", (40, 30), (7, 0, 0)).save(panoptic / "panoptic_val/3.png")
        kinds = [each.kind for each in of_masks(inspect_data(panoptic, "val", masks="panoptic", quick=True).findings)]
        assert set(kinds) == {"segments-unlike-pixels"}
        Image.new("P", (40, 30)).save(panoptic / "panoptic_val/3.png")
        (unreadable,) = of_masks(inspect_data(panoptic, "val", masks="panoptic", quick=True).findings)
        assert unreadable.kind == "unreadable"
        assert unreadable.files == (str(panoptic / "panoptic_val/3.png"),)


class TestOutlines:
    @pytest.fixture
    def split(self, tmp_path: Path) -> Split:
        """Good outlines but for two: one is a line, the other belongs to another object."""
        write_split(tmp_path, "val", GOOD)
        file = tmp_path / "annotations/instances_val.json"
        contents = json.loads(file.read_text())
        for annotation in contents["annotations"]:
            left, top, width, height = annotation["bbox"]
            right, bottom = left + width, top + height
            annotation["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
        contents["annotations"][0]["segmentation"] = [[20, 20, 80, 20, 20, 20]]
        contents["annotations"][4]["segmentation"] = contents["annotations"][5]["segmentation"]
        file.write_text(json.dumps(contents))
        return Split("val", open_dataset(tmp_path, "val", masks="instances"))

    def test_each_is_found(self, split: Split) -> None:
        assert found([split]) == [
            (
                "masks-without-pixels",
                "warning",
                "1 of 20 objects has an outline that covers no pixel (annotation 1 of val_0.jpg).",
            ),
            (
                "masks-beside-boxes",
                "warning",
                "1 of 20 objects has a mask that is not where the box is (annotation 5 of val_2.jpg).",
            ),
        ]

    def test_data_without_masks_are_not_decoded(self, split: Split, tmp_path: Path) -> None:
        assert found([Split("val", open_dataset(tmp_path, "val"))]) == []
