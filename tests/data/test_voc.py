"""Pascal VOC folders: exact boxes, classes and ids shared by all splits, and a clear message for whatever cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from detrkit.data import open_dataset
from detrkit.data.transforms import relative_target
from detrkit.data.voc import read_voc
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections

Box = Sequence[object]


def thing(name: str, box: Box, difficult: str = "0") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def write_annotation(folder: Path, name: str, *objects: str, size: str = "<width>8</width><height>6</height>") -> None:
    """An image of 8 × 6 pixels and its annotation."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    text = f"<annotation><filename>other.jpg</filename><size>{size}</size>{''.join(objects)}</annotation>"
    (folder / f"Annotations/{name}.xml").write_text(text)
    Image.new("RGB", (8, 6)).save(folder / f"JPEGImages/{name}.png")


def write_split(folder: Path, split: str, *names: str) -> None:
    (folder / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
    (folder / f"ImageSets/Main/{split}.txt").write_text("".join(f"{name}\n" for name in names))


def voc_folder(folder: Path, *objects: str) -> Path:
    write_annotation(folder, "a", *objects)
    write_split(folder, "train", "a")
    return folder


def test_both_corners_belong_to_the_box_and_count_from_one(tmp_path: Path) -> None:
    objects = (thing("cat", (1, 1, 8, 6)), thing("cat", (3, 2, 4, 6)), thing("cat", (2.5, 1, "4.75", " 2 ")))
    dataset = read_voc(voc_folder(tmp_path, *objects), "train")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 8, 6], [2, 1, 4, 6], [1.5, 0, 4.75, 2]]
    assert dataset.areas.tolist() == [48, 10, 6.5]
    assert dataset.sizes.tolist() == [[6, 8]]
    assert dataset.notes == ()


def test_all_splits_share_classes_and_image_ids(tmp_path: Path) -> None:
    write_annotation(tmp_path, "b", thing("dog", (1, 1, 4, 4)))
    write_annotation(tmp_path, "a", thing(" cat ", (1, 1, 4, 4)), thing("dog", (2, 2, 4, 4)))
    write_annotation(tmp_path, "unlisted", thing("ant", (1, 1, 4, 4)))
    write_split(tmp_path, "train", "b")
    write_split(tmp_path, "val", "a")
    write_split(tmp_path, "trainval", "b", "", "a")
    splits = {split: read_voc(tmp_path, split) for split in ("train", "val", "trainval")}
    for dataset in splits.values():
        assert [(entry.index, entry.id, entry.name) for entry in dataset.categories] == [(0, 1, "cat"), (1, 2, "dog")]
    assert {split: dataset.image_ids.tolist() for split, dataset in splits.items()} == {
        "train": [2],
        "val": [1],
        "trainval": [2, 1],
    }
    assert splits["trainval"].labels.tolist() == [1, 0, 1]
    assert splits["trainval"].offsets.tolist() == [0, 1, 3]
    assert splits["trainval"].image_name(0) == "b.png"


def test_difficult_objects_are_crowd_regions(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)), thing("cat", (5, 1, 8, 4), difficult="1"))
    dataset = read_voc(folder, "train")
    assert dataset.crowd.tolist() == [False, True]
    assert dataset.notes[0].startswith("1 of 2 objects are marked difficult and were made crowd regions: they are not")
    (box_cxcywh,) = relative_target(dataset.objects(0), 6, 8).boxes_cxcywh.tolist()
    assert box_cxcywh == pytest.approx([0.25, 1 / 3, 0.5, 2 / 3])
    truth = dataset.to_coco()
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
        for box, score in (([4, 0, 4, 4], 0.9), ([0, 0, 4, 4], 0.8))
    ]
    assert evaluate_detections(truth, results).figures["AP"] == pytest.approx(1.0)  # the better one is not a mistake


def test_boxes_without_area_are_dropped_with_a_note(tmp_path: Path) -> None:
    objects = [thing("cat", box) for box in ((1, 1, 4, 4), (3, 3, 3, 5), (5, 2, 5, 2), (4, 4, 2, 5))]
    dataset = read_voc(voc_folder(tmp_path, *objects), "train")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 4, 4]]
    assert dataset.notes == (
        "3 of 4 boxes have no area (xmax is not above xmin, or ymax not above ymin) and were left out (the first: object 2 of a.xml).",
    )


def test_images_without_objects_and_boxes_beyond_the_edge_are_kept(tmp_path: Path) -> None:
    write_annotation(tmp_path, "a", thing("cat", (5, 2, 20, 6)))
    write_annotation(tmp_path, "empty", size="<width>0</width><height>0</height>")
    write_split(tmp_path, "train", "empty", "a")
    dataset = read_voc(tmp_path, "train")
    assert [len(dataset.objects(index)) for index in range(2)] == [0, 1]
    assert dataset.boxes_xyxy.tolist() == [[4, 1, 20, 6]]
    assert "1 of 1 boxes extend beyond their image" in dataset.notes[0]
    (box_cxcywh,) = relative_target(dataset.objects(1), 6, 8).boxes_cxcywh.tolist()
    assert box_cxcywh == pytest.approx([0.75, 3.5 / 6, 0.5, 5 / 6])


def test_parts_of_an_object_are_not_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    dataset = read_voc(
        voc_folder(tmp_path, thing("person", (1, 1, 8, 6)).replace("<bndbox>", part + "<bndbox>")), "train"
    )
    assert [entry.name for entry in dataset.categories] == ["person"]
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 8, 6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", r"a\.xml cannot be parsed \(.*line 1.*\): copy or export"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", r"a\.xml cannot be parsed \(.*\): copy or export"),
        ("<html></html>", r"a\.xml holds <html>, not <annotation>: export"),
        (
            "<!DOCTYPE annotation [<!ENTITY x 'y'>]><annotation/>",
            r"a\.xml cannot be parsed \(it has a DOCTYPE, which annotations do not need\)",
        ),
        (f"<annotation>{thing('', (1, 1, 2, 2))}</annotation>", r"a\.xml: object 1 has no name; give it one"),
        (
            f"<annotation>{thing('cat', (1, 1, 2, 2))}{thing('dog', (1, 1, 'wide', 2))}</annotation>",
            r"a\.xml: object 2 \(dog\) has the bndbox/xmax 'wide'; give a number of pixels",
        ),
        (
            f"<annotation>{thing('cat', (1, 'nan', 2, 2))}</annotation>",
            r"object 1 \(cat\) has the bndbox/ymin 'nan'; give a number",
        ),
        ("<annotation><object><name>cat</name></object></annotation>", r"has the bndbox/xmin None; give a number"),
        (
            "<annotation><size><width>wide</width><height>6</height></size></annotation>",
            r"a\.xml has the size/width 'wide'; give a number",
        ),
        (
            f"<annotation><size><width>10</width><height>6</height></size>{thing('cat', (1, 1, 3, 3))}</annotation>",
            r"'a\.png' is annotated as 10 × 6 pixels, but the file has 8 × 6; use the pictures that were annotated",
        ),
        (
            f"<annotation>{thing('cat', (0.1, 0.1, 0.5, 1))}</annotation>",
            r"Annotations: all boxes lie within 0\.\.1, so they are fractions of the image; multiply",
        ),
    ],
)
def test_an_annotation_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    voc_folder(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_voc(tmp_path, "train")


def test_missing_files(tmp_path: Path) -> None:
    voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)))
    write_split(tmp_path, "test", "later")  # the files of a split that nobody opens need not exist
    assert len(read_voc(tmp_path, "train")) == 1
    with pytest.raises(
        DataError, match=r"later\.xml does not exist, but a list in ImageSets/Main has 'later': add the"
    ):
        read_voc(tmp_path, "test")
    with pytest.raises(
        DataError, match=r"ImageSets/Main/val\.txt lists no images: write the names of the split's images"
    ):
        read_voc(tmp_path, "val")
    (tmp_path / "JPEGImages/a.png").unlink()
    with pytest.raises(DataError, match=r"none of its 1 pictures is in .*JPEGImages: put them .* \(missing: a\.jpg\)"):
        read_voc(tmp_path, "train")


def test_a_list_that_cannot_be_used(tmp_path: Path) -> None:
    voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)))
    write_split(tmp_path, "train", "a", "a")
    with pytest.raises(DataError, match=r"train\.txt lists a twice: remove one of the two lines"):
        read_voc(tmp_path, "train")
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"train\.txt is not UTF-8 text: save it as UTF-8"):
        read_voc(tmp_path, "train")


def test_blood_cells(shared: Path) -> None:
    counts = {}
    for split in ("train", "val", "trainval", "test"):
        dataset = open_dataset(shared / "data/bccd", split)
        assert [entry.name for entry in dataset.categories] == ["Platelets", "RBC", "WBC"]
        per_class = [int((dataset.labels == index).sum()) for index in range(3)]
        counts[split] = (len(dataset), per_class, len(dataset.notes))
        assert dataset.boxes_xyxy.min() == 0
        assert dataset.boxes_xyxy[:, [0, 2]].max() == 640
        assert dataset.boxes_xyxy[:, [1, 3]].max() == 480
    assert counts == {
        "train": (205, [209, 2381, 214], 1),
        "val": (87, [83, 967, 87], 1),
        "trainval": (292, [292, 3348, 301], 1),
        "test": (72, [69, 805, 71], 0),
    }
    name = "BloodImage_00338.jpg"
    validation = open_dataset(shared / "data/bccd", "val")
    position = [validation.image_name(index) for index in range(len(validation))].index(name)
    assert validation.objects(position).boxes_xyxy[:2].tolist() == [[452, 80, 555, 182], [475, 170, 599, 307]]


def test_truth_as_detections_is_perfect(shared: Path) -> None:
    truth = open_dataset(shared / "data/bccd", "val").to_coco()
    results = [
        {"image_id": entry["image_id"], "category_id": entry["category_id"], "bbox": entry["bbox"], "score": 1.0}
        for entry in truth["annotations"]
    ]
    evaluation = evaluate_detections(truth, results)
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert [entry.ap for entry in evaluation.classes] == pytest.approx([1.0, 1.0, 1.0])
