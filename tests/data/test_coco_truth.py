"""What COCO files of real tools state oddly: empty boxes beside outlines, names that are no texts, files that are nested too deeply."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coco_files import BOXES, Contents, boxes_xywh, coco

from detrkit.data import DetectionDataset, open_dataset
from detrkit.data.wording import shown_value
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections

Read = Callable[..., DetectionDataset]
OUTLINE = [[26, 6, 54, 6, 54, 35, 26, 35]]  # of the second of BOXES
NOTE = (
    "1 of 6 annotations has an outline but no usable box; the box follows from the outline (the first: annotation 2).",
)
DROPPED = ("1 of 6 boxes has no area and was left out (the first: annotation 2 of 1.png).",)


def with_box(box: object, **extra: object) -> Contents:
    """The second annotation has this box and no area."""
    contents = coco()
    contents["annotations"][1] |= {"bbox": box, "area": None, **extra}
    return contents


class TestEmptyBoxes:
    @pytest.mark.parametrize(
        "box",
        [
            *([26, 6, 0, 0], [-1, -1, -1, -1], [0, 0, 0, 0], [26, 6, 28, 0], [26, 6, 0, 29], [26, 6, 28, -29]),
            *([26, 6, 0.0, 29], [], None, ["26", "6", "28", "29"]),
        ],
    )
    def test_the_outline_gives_the_box(self, read: Read, box: object) -> None:
        dataset = read(with_box(box, segmentation=OUTLINE))
        assert boxes_xywh(dataset) == BOXES
        assert dataset.areas[1] == 28 * 29
        assert dataset.notes == NOTE

    def test_evaluation_sees_the_same_box(self, read: Read) -> None:
        contents = with_box([26, 6, 28, 0], segmentation=OUTLINE)
        perfect = [entry | {"score": 1.0} for entry in read(contents).to_coco()["annotations"]]
        evaluation = evaluate_detections(contents, perfect)
        assert (evaluation.objects, evaluation.figures["AP"], evaluation.notes) == (6, 1.0, NOTE)

    @pytest.mark.parametrize("outline", [None, [], [[26, 6, 54, 6]], [[26, 6, 54, 6, 40, 6]], [[26, 6, 54, "6", 1, 1]]])
    def test_without_a_usable_outline_they_are_dropped(self, read: Read, outline: object) -> None:
        dataset = read(with_box([26, 6, 28, 0], segmentation=outline))
        assert boxes_xywh(dataset) == [BOXES[0], *BOXES[2:]]
        assert dataset.notes == DROPPED

    def test_thin_boxes_with_an_area_are_kept(self, read: Read) -> None:
        assert boxes_xywh(read(with_box([26, 6, 0.001, 29], segmentation=OUTLINE)))[1] == pytest.approx(
            [26, 6, 0.001, 29]
        )


def evaluated(contents: Contents) -> Any:
    return evaluate_detections(contents, [{"image_id": 1, "category_id": 1, "bbox": BOXES[0], "score": 0.9}])


class TestNames:
    """Data sets and evaluation agree."""

    @pytest.mark.parametrize(
        ("given", "name", "note"),
        [
            (5, "5", "1 of 2 categories has a number as name, which is taken as text (the first: category 1 is '5')."),
            (0, "0", "1 of 2 categories has a number as name, which is taken as text (the first: category 1 is '0')."),
            (
                5.0,
                "5",
                "1 of 2 categories has a number as name, which is taken as text (the first: category 1 is '5').",
            ),
            (
                *(0.5, "0.5"),
                "1 of 2 categories has a number as name, which is taken as text (the first: category 1 is '0.5').",
            ),
            (None, "1", "1 of 2 categories has no name and is called by the id instead (the first: 1)."),
            (" ", "1", "1 of 2 categories has no name and is called by the id instead (the first: 1)."),
        ],
    )
    def test_numbers_and_nothing(self, read: Read, given: object, name: str, note: str) -> None:
        contents = coco()
        contents["categories"][0]["name"] = given
        dataset, evaluation = read(contents), evaluated(contents)
        assert [category.name for category in dataset.categories] == [name, "bar"]
        assert [each.name for each in evaluation.classes] == [name, "bar"]
        assert dataset.notes == evaluation.notes == (note,)

    @pytest.mark.parametrize("given", [True, ["square"], {"en": "square"}, float("nan")])
    def test_anything_else_is_refused(self, read: Read, given: object) -> None:
        contents = coco()
        contents["categories"][0]["name"] = given
        for use in (read, evaluated):
            with pytest.raises(DataError) as caught:
                use(contents)
            assert str(caught.value).endswith(
                f": 1 of 2 categories has a name that is no text: category 1 ({given!r}); give each a text."
            )

    def test_a_number_and_its_text_are_the_same_name(self, read: Read) -> None:
        contents = coco()
        contents["categories"] = [{"id": 1, "name": 5}, {"id": 2, "name": "5"}]
        with pytest.raises(DataError, match=r": categories 1 and 2 are both named '5'; rename one\."):
            read(contents)

    def test_a_parent_may_be_a_number(self, read: Read) -> None:
        contents = coco()
        for category in contents["categories"]:
            category["supercategory"] = 7
        contents["categories"].append({"id": 3, "name": "7", "supercategory": ["none"]})
        assert [category.name for category in read(contents).categories] == ["square", "bar"]

    def test_a_category_that_is_only_its_own_parent_is_a_class(self, read: Read) -> None:
        contents = coco()
        contents["categories"].append({"id": 3, "name": "dot", "supercategory": "dot"})
        assert [category.name for category in read(contents).categories] == ["square", "bar", "dot"]

    def test_every_category_is_looked_at_once(self, read: Read) -> None:
        """Comparing each of many categories with all others would take minutes."""
        looks = 0

        class Counted(dict[str, Any]):
            def get(self, key: str, default: Any = None) -> Any:
                nonlocal looks
                looks += key == "supercategory"
                return super().get(key, default)

        from detrkit.data.coco import _categories
        from detrkit.data.coco_truth import read_truth

        categories = [Counted(id=number, name=f"c{number}", supercategory="none") for number in range(500)]
        truth = read_truth({"images": [{"id": 1}], "annotations": [], "categories": categories}, "truth.json")  # type: ignore[dict-item]
        assert len(_categories(truth, Path("truth.json"))[0]) == 500
        assert looks == 500


@pytest.mark.parametrize("text", ['{"images":' + "[" * 200_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000])
def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "deep.json").write_text(text)
    with pytest.raises(
        DataError,
        match=r"deep\.json is nested too deeply to be a COCO annotation file: export the data as COCO instances\.$",
    ):
        open_dataset(tmp_path / "deep.json", "train")
    with pytest.raises(
        DataError, match=r"deep\.json is nested too deeply to be annotations or results: create it again\.$"
    ):
        evaluate_detections(tmp_path / "deep.json", [])
    (tmp_path / "truth.json").write_text(json.dumps(coco()))
    with pytest.raises(DataError, match=r"deep\.json is nested too deeply to be annotations or results"):
        evaluate_detections(tmp_path / "truth.json", tmp_path / "deep.json")


def test_a_deeply_nested_value_can_be_shown() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert shown_value(value) == "a deeply nested list"
