"""Small data sets after public bug reports, each with others of its kind: what comes out is right, or is said before a run begins.

Here: annotations. Units and pictures have files of their own.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import BOXES, HEIGHT, WIDTH, boxes_xywh, coco, write_pictures
from pycocotools import mask as reference_masks

from detrkit.data import DetectionDataset, open_dataset, read_coco
from detrkit.data.coco_values import box_of_outline
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections

Read = Callable[..., DetectionDataset]


class TestCrowdFlags:
    def test_the_case(self, shared: Path) -> None:
        for split, count in (("train", 12), ("val", 6)):
            dataset = open_dataset(shared / "cases/iscrowd_string", split)
            assert dataset.crowd.tolist() == [False] * count
            assert dataset.notes == ()

    @pytest.mark.parametrize(
        ("value", "crowd"),
        [
            (0, False),
            (1, True),
            (False, False),
            (True, True),
            (0.0, False),
            (1.0, True),
            ("0", False),
            ("1", True),
            ("false", False),
            ("False", False),
            ("TRUE", True),
            (" true ", True),
            (None, False),
        ],
    )
    def test_values_that_mean_a_flag(self, read: Read, value: object, crowd: bool) -> None:
        contents = coco()
        contents["annotations"][1]["iscrowd"] = value
        assert read(contents).crowd.tolist() == [False, crowd, False, False, False, False]

    @pytest.mark.parametrize("value", [[0], [], 2, -1, 0.5, "maybe", "", {"a": 1}])
    def test_anything_else_is_refused_with_a_count(self, read: Read, value: object) -> None:
        contents = coco()
        for annotation in contents["annotations"][1:]:
            annotation["iscrowd"] = value
        with pytest.raises(DataError) as caught:
            read(contents)
        shown = f"annotation 2 ({value!r}), annotation 3 ({value!r}), annotation 4 ({value!r}) and 2 more"
        assert str(caught.value).endswith(
            f"truth.json: 5 of 6 annotations have an 'iscrowd' that is neither 0 nor 1: {shown}; "
            "write 0 for a single object and 1 for a crowd region."
        )


class TestIds:
    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/image_id_string", "train")
        assert dataset.image_ids.tolist() == [1, 2, 3, 4, 5, 6]
        assert np.diff(dataset.offsets).tolist() == [2] * 6
        assert dataset.file_image_ids is None
        assert dataset.notes == ()

    @pytest.mark.parametrize("ids", [["7", "3", "0"], [7.0, 3.0, 0.0], ["7", 3.0, 0], [" 7", "3.0", "-0"]])
    def test_integral_texts_and_floats_are_integers(self, read: Read, ids: list[Any]) -> None:
        contents = coco()
        for number, image in enumerate(contents["images"]):
            image["id"] = ids[number]
        for number, annotation in enumerate(contents["annotations"]):
            annotation["image_id"] = (7, "7", 3, "3.0", 0.0, "0")[number]
            annotation["category_id"] = (1, "2", 1.0, 2, "1", "2")[number]
        contents["categories"][0]["id"] = "1"
        dataset = read(contents)
        assert dataset.image_ids.tolist() == [7, 3, 0]
        assert np.diff(dataset.offsets).tolist() == [2, 2, 2]
        assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert (dataset.file_image_ids, dataset.file_category_ids) == (None, None)

    def test_other_texts_are_numbered_and_results_give_them_back(self, read: Read, tmp_path: Path) -> None:
        contents = coco()
        own = ["b/2", "a", 5]
        for number, image in enumerate(contents["images"]):
            image["id"] = own[number]
        for annotation in contents["annotations"]:
            annotation["image_id"] = own[annotation["image_id"] - 1]
            annotation["category_id"] = ("sq", "bar")[annotation["category_id"] - 1]
        contents["categories"] = [{"id": "sq", "name": "square"}, {"id": "bar", "name": "bar"}]
        dataset = read(contents)
        assert dataset.image_ids.tolist() == [1, 2, 3]
        assert np.diff(dataset.offsets).tolist() == [2, 2, 2]
        assert [(category.id, category.name) for category in dataset.categories] == [(1, "square"), (2, "bar")]
        assert dataset.labels.tolist() == [0, 1, 0, 1, 0, 1]
        assert {entry["image_id"] for entry in dataset.to_coco()["annotations"]} == {1, 2, 3}
        assert dataset.subset([2, 0]).file_image_ids.tolist() == [5, "b/2"]  # type: ignore[union-attr]

        perfect = [entry | {"score": 1.0} for entry in dataset.to_coco()["annotations"]]
        entries = dataset.with_file_ids(perfect)
        assert [entry["image_id"] for entry in entries] == ["b/2", "b/2", "a", "a", 5, 5]
        assert [entry["category_id"] for entry in entries] == ["sq", "bar"] * 3
        (tmp_path / "results.json").write_text(json.dumps(entries))
        evaluation = evaluate_detections(tmp_path / "truth.json", tmp_path / "results.json")
        assert evaluation.figures["AP"] == pytest.approx(1.0)
        assert evaluate_detections(dataset.to_coco(), perfect).figures == evaluation.figures
        with pytest.raises(
            DataError, match=r"has image_id 'c', but .* has no such image \(its ids are such as 'b/2', 3"
        ):
            evaluate_detections(tmp_path / "truth.json", [entries[0] | {"image_id": "c"}])

    def test_without_texts_results_stay_as_they_are(self, read: Read) -> None:
        entry = {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}
        assert read(coco()).with_file_ids([entry]) == [entry]

    def test_texts_of_one_number_are_different_ids(self, read: Read) -> None:
        contents = coco()
        for number, image in enumerate(contents["images"]):
            image["id"] = ("7", "07", "007")[number]
        for annotation in contents["annotations"]:
            annotation["image_id"] = ("7", "07", "007")[annotation["image_id"] - 1]
        dataset = read(contents)
        assert dataset.file_image_ids is not None
        assert dataset.file_image_ids.tolist() == ["7", "07", "007"]
        assert np.diff(dataset.offsets).tolist() == [2, 2, 2]

    def test_numbers_beyond_64_bits_are_numbered(self, read: Read) -> None:
        contents = coco()
        contents["images"][0]["id"] = contents["annotations"][0]["image_id"] = 2**70
        contents["annotations"][1]["image_id"] = 2**70
        assert read(contents).image_ids.tolist() == [1, 2, 3]

    @pytest.mark.parametrize("identifiers", [[None] * 6, list("abcdef"), [1, 1, 2, 2, 3, 3], [1.5, 2, 3, 4, 5, 6]])
    def test_annotation_ids_are_not_needed(self, read: Read, identifiers: list[Any]) -> None:
        contents = coco()
        for annotation, identifier in zip(contents["annotations"], identifiers, strict=True):
            annotation["id"] = identifier
        assert read(contents).annotation_ids.tolist() == [1, 2, 3, 4, 5, 6]
        contents["annotations"][3]["bbox"] = [27, 38, 0, 23]
        assert read(contents).notes == (
            "1 of 6 boxes has no area and was left out (the first: annotation number 4 of the list of 2.png).",
        )

    def test_unusable_ids_and_twins_are_counted(self, read: Read) -> None:
        contents = coco()
        for image in contents["images"]:
            image["id"] = [1]
        with pytest.raises(
            DataError, match=r": 3 of 3 images have no usable id: '1\.png' \(\[1\]\), '2\.png' .*; give"
        ):
            read(contents)
        for image in contents["images"]:
            image["id"] = "x"
        with pytest.raises(
            DataError, match=r": 1 image id occurs more than once: x \('1\.png', '2\.png', '3\.png'\); giv"
        ):
            read(contents)


class TestCategories:
    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/via_export", "train")
        assert [(category.id, category.name) for category in dataset.categories] == [(1, "object")]
        assert boxes_xywh(dataset)[:2] == [[15, 31, 18, 16], [26, 6, 28, 29]]
        assert dataset.labels.tolist() == [0] * 12
        assert dataset.notes == ("None of the 12 annotations has a category, so one class named 'object' is assumed.",)

    @pytest.mark.parametrize("absent", [None, "", ...])
    def test_annotations_without_one_are_left_out_while_others_have_one(self, read: Read, absent: object) -> None:
        contents = coco()
        for annotation in contents["annotations"][1:3]:
            annotation["category_id"] = absent
            if absent is ...:
                del annotation["category_id"]
        contents["annotations"][1]["bbox"] = None  # what is left out need not be right
        dataset = read(contents)
        assert dataset.annotation_ids.tolist() == [1, 4, 5, 6]
        assert dataset.notes == (
            "2 of 6 annotations have no category and were left out (the first: annotation number 2 of the list).",
        )

    def test_a_single_listed_category_is_meant(self, read: Read) -> None:
        contents = coco()
        contents["categories"] = [{"id": 4, "name": "square"}]
        for annotation in contents["annotations"]:
            del annotation["category_id"]
        dataset = read(contents)
        assert [(category.id, category.name) for category in dataset.categories] == [(4, "square")]
        assert dataset.labels.tolist() == [0] * 6
        assert dataset.notes == (
            "None of the 6 annotations has a category; all are taken for 'square', the only one that the file lists.",
        )

    def test_of_several_listed_categories_none_is_chosen(self, read: Read) -> None:
        contents = coco()
        for annotation in contents["annotations"]:
            del annotation["category_id"]
        dataset = read(contents)
        assert [category.name for category in dataset.categories] == ["object"]
        assert dataset.notes == (
            "None of the 6 annotations has a category, so one class named 'object' is assumed, "
            "in place of the 2 that the file lists.",
        )

    def test_a_file_without_annotations_keeps_its_categories(self, read: Read) -> None:
        contents = coco([])
        assert [category.name for category in read(contents).categories] == ["square", "bar"]
        del contents["categories"]
        dataset = read(contents)
        assert [category.name for category in dataset.categories] == ["object"]
        assert dataset.notes == ("The file lists no categories, so one class named 'object' is assumed.",)

    def test_categories_that_are_given_but_not_listed_are_refused(self, read: Read) -> None:
        contents = coco() | {"categories": []}
        with pytest.raises(
            DataError, match=r": 6 of 6 annotations have a category that the file does not list: annotation"
        ):
            read(contents)


class TestOutlines:
    POLYGON = ((10, 10, 30, 10, 30, 30, 10, 30),)

    def test_the_case(self, shared: Path) -> None:
        dataset = open_dataset(shared / "cases/bbox_empty_polygon_there", "train")
        assert boxes_xywh(dataset)[:2] == [[10, 10, 20, 20], [26, 6, 28, 29]]
        assert len(dataset.labels) == 12
        assert dataset.notes == (
            "1 of 12 annotations has an outline but no usable box; the box follows from the outline "
            "(the first: annotation 1).",
        )

    @pytest.mark.parametrize("bbox", [None, [], [1, 2], [1, 2, 3, 4, 5], [0, 0, 0, 0], [1, None, 3, 4], "1 2 3 4", ...])
    def test_every_unusable_box(self, read: Read, bbox: object) -> None:
        contents = coco()
        annotation = contents["annotations"][0]
        annotation |= {"bbox": bbox, "segmentation": [list(self.POLYGON[0]), [40, 5.5, 41, 6, 40, 7]], "area": 0}
        if bbox is ...:
            del annotation["bbox"]
        dataset = read(contents)
        assert boxes_xywh(dataset)[0] == [10, 5.5, 31, 24.5]
        assert dataset.areas[0] == 31 * 24.5

    def test_masks(self) -> None:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        mask[20:45, 30:42] = 1
        mask[50, 35] = 1
        compressed = reference_masks.encode(mask)
        expected = tuple(reference_masks.toBbox(compressed).tolist())
        assert expected == (30, 20, 12, 31)
        runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [2]]))).tolist()
        counts = np.diff([0, *runs]).tolist()
        assert box_of_outline({"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}) == expected
        assert box_of_outline({"size": [HEIGHT, WIDTH], "counts": counts}) == expected

    @pytest.mark.parametrize(
        "segmentation",
        [
            None,
            [],
            [[]],
            [1, 2, 3, 4],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5]],
            [["a", 2, 3, 4, 5, 6]],
            [[1, 2, 1, 4, 1, 6]],
            "polygon",
            {"size": [5, 5]},
            {"size": [5], "counts": [1, 2]},
            {"size": [5, 5], "counts": [25]},
            {"size": [5, 5], "counts": "no mask"},
            {"size": [5, 5], "counts": [-1, 30]},
        ],
    )
    def test_outlines_from_which_no_box_follows(self, read: Read, segmentation: object) -> None:
        assert box_of_outline(segmentation) is None
        contents = coco()
        for annotation in contents["annotations"][:2]:
            annotation |= {"bbox": [], "segmentation": segmentation}
        with pytest.raises(DataError) as caught:
            read(contents)
        assert str(caught.value).endswith(
            "2 of 6 annotations have neither a box nor an outline that one follows from: annotation 1 ([]), annotation 2 ([]); "
            "give each a 'bbox' of four finite numbers: left, top, width, height in pixels."
        )

    def test_an_outline_does_not_matter_beside_a_box(self, read: Read) -> None:
        contents = coco()
        for annotation in contents["annotations"]:
            annotation["segmentation"] = [1, 2, 3, 4]
        dataset = read(contents)
        assert boxes_xywh(dataset) == BOXES
        assert dataset.notes == ()


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_every_unicode_file_is_read(self, tmp_path: Path, encoding: str) -> None:
        contents = coco()
        contents["categories"][0]["name"] = "猫"
        write_pictures(tmp_path, ["1.png", "2.png", "3.png"])
        (tmp_path / "truth.json").write_bytes(json.dumps(contents, ensure_ascii=False).encode(encoding))
        dataset = read_coco(tmp_path / "truth.json", tmp_path)
        assert [category.name for category in dataset.categories] == ["猫", "bar"]
        assert boxes_xywh(dataset) == BOXES

    def test_other_encodings_are_named(self, tmp_path: Path) -> None:
        contents = json.dumps(coco() | {"info": "größe"}, ensure_ascii=False)
        (tmp_path / "truth.json").write_bytes(contents.encode("cp1252"))
        with pytest.raises(DataError, match=r"truth\.json is not text in UTF-8, UTF-16 or UTF-32: save it as UTF-8\.$"):
            read_coco(tmp_path / "truth.json", tmp_path)


class TestOneReader:
    @pytest.mark.parametrize("area", [0, -1, "288", None, float("nan"), [], 1e400])
    def test_areas_give_the_same_figures(self, read: Read, tmp_path: Path, area: object) -> None:
        contents = coco()
        for annotation in contents["annotations"]:
            annotation["area"] = area
        self.same_figures(read(contents), tmp_path / "truth.json")

    def test_everything_else_gives_the_same_figures_too(self, read: Read, tmp_path: Path) -> None:
        contents = coco([*BOXES, [5, 5, 0, 9]])
        contents["annotations"][0]["iscrowd"] = "True"
        contents["annotations"][1] |= {"bbox": [], "segmentation": [list(TestOutlines.POLYGON[0])]}
        del contents["annotations"][2]["category_id"]
        dataset = read(contents)
        self.same_figures(dataset, tmp_path / "truth.json")
        evaluation = evaluate_detections(tmp_path / "truth.json", [])
        assert (evaluation.objects, evaluation.crowds) == (4, 1)
        assert evaluation.notes == dataset.notes
        assert len(evaluation.notes) == 3

    @staticmethod
    def same_figures(dataset: DetectionDataset, file: Path) -> None:
        results = [
            {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": score}
            for score, entry in zip(np.linspace(0.9, 0.3, 7), dataset.to_coco()["annotations"], strict=False)
        ]
        results += [copy.deepcopy(results[0]) | {"bbox": [1.0, 1.0, 40.0, 40.0], "score": 0.95}]
        of_file, of_data = evaluate_detections(file, results), evaluate_detections(dataset.to_coco(), results)
        assert of_file.figures == of_data.figures
        assert of_file.figures["AP_small"] is not None
        assert (of_file.objects, of_file.crowds) == (of_data.objects, of_data.crowds)
