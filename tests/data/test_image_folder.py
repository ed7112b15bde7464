"""Hugging Face's image folder: exact boxes and classes, however the objects are written, and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from data.yolo_files import write_picture, write_text

from detrkit.data import NoImagesError, available_splits, open_dataset
from detrkit.errors import DataError

README = """---
license: mit
dataset_info:
  features:
  - name: image
    dtype: image
  - name: objects
    sequence:
    - name: category
      dtype:
        class_label:
          names:
            '0': no
            '1': dog
            '2': cow
---
# Animals
"""


def write_lines(file: Path, *lines: dict[str, Any] | str) -> None:
    """Metadata, and a picture of 40 × 20 pixels for each file name."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    write_text(file, "\n".join(texts) + "\n")
    for red, line in enumerate(lines):
        if isinstance(line, dict) and isinstance(line.get("file_name"), str):
            write_picture(file.parent / line["file_name"], red=red)


def objects(*categories: object, box: tuple[float, ...] = (1, 2, 3, 4)) -> dict[str, Any]:
    return {"bbox": [list(box)] * len(categories), "categories": list(categories)}


def test_splits_with_names_as_texts(tmp_path: Path) -> None:
    two = {"bbox": [[1, 2, 3, 4], [0.5, 0, 39.5, 20]], "categories": ["dog", "cat"]}
    write_lines(
        tmp_path / "train/metadata.jsonl",
        {"file_name": "b.png", "objects": two},
        {"file_name": "a.png", "objects": objects()},
    )
    write_lines(tmp_path / "validation/metadata.jsonl", {"file_name": "c.png", "objects": objects("owl")})
    assert available_splits(tmp_path) == ["train", "val"]
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert (train.name, val.name) == (f"{tmp_path.name} train", f"{tmp_path.name} val")
    assert [train.image_name(index) for index in range(2)] == ["b.png", "a.png"]
    assert train.image_ids.tolist() == [1, 2]
    assert train.offsets.tolist() == [0, 2, 2]
    assert train.boxes_xyxy.tolist() == [[1, 2, 4, 6], [0.5, 0, 40, 20]]
    assert train.sizes.tolist() == [[20, 40]] * 2
    for dataset in (train, val):
        assert [(each.id, each.name) for each in dataset.categories] == [(1, "cat"), (2, "dog"), (3, "owl")]
        assert dataset.notes == ()
    assert (train.labels.tolist(), val.labels.tolist()) == ([1, 0], [2])
    assert open_dataset(tmp_path, "validation").image(0).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize(
    "given",
    [
        {"objects": {"bbox": [[1, 2, 3, 4]], "categories": ["cat"]}},
        {"objects": {"bbox": [[1, 2, 3, 4]], "category": ["cat"], "id": [7], "area": [12]}},
        {"objects": {"bbox": [[1, 2, 3, 4]], "label": ["cat"]}},
        {"objects": [{"bbox": [1, 2, 3, 4], "category": "cat"}]},
        {"objects": [{"bbox": [1, 2, 3, 4], "label": "cat", "iscrowd": 0}]},
        {"bbox": [[1, 2, 3, 4]], "category": ["cat"]},
    ],
)
def test_ways_to_write_objects(tmp_path: Path, given: dict[str, Any]) -> None:
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "a.png", **given})
    dataset = open_dataset(tmp_path, "train")
    assert dataset.boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    assert dataset.areas.tolist() == [12]
    assert [category.name for category in dataset.categories] == ["cat"]


def test_areas_and_crowds_are_kept(tmp_path: Path) -> None:
    given = {**objects("cat", "dog"), "area": [5, 6], "iscrowd": [0, 1]}
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": given})
    dataset = open_dataset(tmp_path, "train")
    assert dataset.areas.tolist() == [5, 6]
    assert dataset.crowd.tolist() == [False, True]


def test_one_file_at_the_root(tmp_path: Path) -> None:
    write_lines(tmp_path / "metadata.jsonl", {"file_name": "x/a.png", "objects": objects("cat")})
    assert available_splits(tmp_path) == ["train"]
    assert open_dataset(tmp_path, "train").image_name(0) == "x/a.png"
    lines = [{"file_name": f"{split}/a.png", "objects": objects(split)} for split in ("train", "validation", "test")]
    write_lines(tmp_path / "metadata.jsonl", *lines)
    assert available_splits(tmp_path) == ["train", "val", "test"]
    dataset = open_dataset(tmp_path, "val")
    assert [category.name for category in dataset.categories] == ["test", "train", "validation"]
    assert dataset.image(0).getpixel((0, 0)) == (1, 0, 0)
    assert (dataset.labels.tolist(), dataset.notes) == ([2], ())


def test_splits_below_data(tmp_path: Path) -> None:
    write_lines(tmp_path / "data/test/metadata.jsonl", {"file_name": "a.png", "objects": objects("cat")})
    assert available_splits(tmp_path) == ["test"]
    assert len(open_dataset(tmp_path, "test")) == 1


def test_numbers_are_named_by_the_readme(tmp_path: Path) -> None:
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": objects(2, 0)})
    write_text(tmp_path / "README.md", README)
    dataset = open_dataset(tmp_path, "train")
    assert [(each.id, each.name) for each in dataset.categories] == [(0, "no"), (1, "dog"), (2, "cow")]
    assert (dataset.labels.tolist(), dataset.notes) == ([2, 0], ())
    listed = README.replace("'0':", "-").replace("'1':", "-").replace("'2':", "-")
    write_text(tmp_path / "README.md", listed)
    assert [each.name for each in open_dataset(tmp_path, "train").categories] == ["no", "dog", "cow"]
    write_text(tmp_path / "README.md", README.replace("            '2': cow\n", ""))
    message = r"metadata\.jsonl, line 1 has the category 2, but .*README\.md names 2 classes from 0 to 1: correct one of the two"
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "train")
    write_text(tmp_path / "README.md", README.replace("'2'", "two"))
    with pytest.raises(DataError, match=r"README\.md has class names without numbers: write '0': first name"):
        open_dataset(tmp_path, "train")
    write_text(tmp_path / "README.md", README.replace("license: mit", "license: [mit"))
    with pytest.raises(DataError, match=r"README\.md has a header that cannot be parsed \(while parsing"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize("readme", [None, "# Animals\n", "---\nlicense: mit\n---\n"])
def test_numbers_without_names(tmp_path: Path, readme: str | None) -> None:
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": objects(5, 0)})
    if readme is not None:
        write_text(tmp_path / "README.md", readme)
    dataset = open_dataset(tmp_path, "train")
    assert [(each.id, each.name) for each in dataset.categories] == [(0, "0"), (5, "5")]
    assert dataset.notes == (
        "metadata.jsonl gives classes as numbers and no README.md names them (dataset_info, class_label), so they are called by their "
        "numbers.",
    )


def test_pictures_that_are_not_listed(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "train/metadata.jsonl", {"file_name": ".\\deep\\a.png".replace("\\", "/"), "objects": objects("cat")}
    )
    write_picture(tmp_path / "train/b.png")
    assert open_dataset(tmp_path, "train").notes == (
        "1 picture is not in metadata.jsonl and was left out (the first: b.png).",
    )


def test_names_with_backslashes(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/deep/a.png")
    write_lines(tmp_path / "train/metadata.jsonl", json.dumps({"file_name": "deep\\a.png", "objects": objects("cat")}))
    assert open_dataset(tmp_path, "train").image_name(0) == "deep/a.png"


FILE = r"train/metadata\.jsonl, line 2 "


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"file_name": "b.png"', r"is not complete JSON \(.*\): write the file again\."),
        ("[1]", r"has the file_name None: give the picture's name, relative to the file\."),
        ({"objects": {}}, r"has the file_name None: give"),
        ({"file_name": "b.png"}, r"has no objects: write 'objects' with the lists 'bbox' and 'categories', empty if there are none\.$"),
        ({"file_name": "b.png", "objects": {"bbox": [[1, 2, 3, 4]]}}, r"has the objects {'bbox': \[\[1, 2, 3, 4\]\]}: write 'objects' with"),
        ({"file_name": "b.png", "objects": ["cat"]}, r"has the objects \['cat'\]: write 'objects' with the lists 'bbox'"),
        ({"file_name": "b.png", "objects": objects(1.5)}, r"has an object of the category 1\.5: give its name or its number\."),
        ({"file_name": "b.png", "objects": objects("cat", box=(1, 2, 3, 10**400))}, r"has the box \[1, 2, 3, 10+…: give four numbers: left"),
        ({"file_name": "b.png", "objects": {**objects("cat"), "categories": ["cat", "dog"]}},
         r"has 1 of bbox and 2 of category: write as many of each\."),
        ({"file_name": "b.png", "objects": objects(True)}, r"has an object of the category True: give its name or its number\."),
        ({"file_name": "b.png", "objects": objects(None)}, r"has an object of the category None"),
        ({"file_name": "b.png", "objects": objects("cat", box=(1, 2, 3))},
         r"has the box \[1, 2, 3\]: give four numbers: left, top, width and height in pixels\."),
        ({"file_name": "b.png", "objects": objects("cat", box=(1, 2, float("nan"), 4))}, r"has the box \[1, 2, nan, 4\]: give"),
        ({"file_name": "b.png", "objects": objects(3)}, r"has 3: give names everywhere, or numbers\."),
        ({"file_name": "a.png", "objects": objects("cat")}, r"lists a\.png again: write all its objects into one line\."),
        ({"file_name": "b.png", "objects": objects(True, True)}, r"has an object of the category True: .* number\. \(2 of this kind\.\)$"),
    ],
)  # fmt: skip
def test_errors_name_the_line(tmp_path: Path, line: dict[str, Any] | str, sentence: str) -> None:
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": objects("cat")}, line)
    with pytest.raises(DataError, match=FILE + sentence):
        open_dataset(tmp_path, "train")


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    names = ("a.png", "b.png", "c.png")
    write_lines(tmp_path / "train/metadata.jsonl", *({"file_name": name, "objects": objects("cat")} for name in names))
    for name in names[:2]:
        (tmp_path / "train" / name).unlink()
    with pytest.raises(DataError, match=r"a\.png does not exist: .* \(2 of the 3 images cannot be used\.\)"):
        open_dataset(tmp_path, "train")


def test_an_empty_file_and_other_tables(tmp_path: Path) -> None:
    write_text(tmp_path / "train/metadata.jsonl", "\n")
    with pytest.raises(DataError, match=r"metadata\.jsonl lists no pictures: write a line for each\."):
        open_dataset(tmp_path, "train")
    (tmp_path / "train/metadata.jsonl").rename(tmp_path / "train/metadata.csv")
    with pytest.raises(DataError, match=r"metadata\.csv is not read, only metadata\.jsonl is: write that instead\.$"):
        open_dataset(tmp_path, "train")


def test_only_the_faults_of_the_split_count(tmp_path: Path) -> None:
    """An export with an unused or broken validation split can be trained on; the classes of what can be read of it count."""
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": objects("dog")})
    write_lines(tmp_path / "dev/metadata.jsonl", {"file_name": "b.png", "objects": objects("cat")}, "{")
    write_text(tmp_path / "validation/metadata.jsonl", "\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/metadata.jsonl").write_bytes(b"\xff\xfe\xff")
    train = open_dataset(tmp_path, "train")
    assert [category.name for category in train.categories] == ["cat", "dog"]
    assert available_splits(tmp_path) == ["train", "val", "test", "dev"]
    with pytest.raises(NoImagesError, match=r"validation/metadata\.jsonl lists no pictures: write a line for each\.$"):
        open_dataset(tmp_path, "val")
    with pytest.raises(DataError, match=r"dev/metadata\.jsonl, line 2 is not complete JSON"):
        open_dataset(tmp_path, "dev")
    with pytest.raises(DataError, match=r"test/metadata\.jsonl is not UTF-8 text"):
        open_dataset(tmp_path, "test")


def test_null_counts_as_no_objects(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "train/metadata.jsonl",
        {"file_name": "a.png", "objects": objects("dog")},
        {"file_name": "b.png", "objects": None},
        {"file_name": "c.png", "objects": {"bbox": None, "categories": None}},
        {"file_name": "d.png", "bbox": None},
        {"file_name": "e.png", "objects": objects()},
    )
    dataset = open_dataset(tmp_path, "train")
    assert dataset.offsets.tolist() == [0, 1, 1, 1, 1, 1]
    assert dataset.notes == (
        f"3 lines have null for the objects and count as pictures without objects (the first: {tmp_path}/train/metadata.jsonl, line 2).",
    )


def test_whole_numbers_with_a_point_are_categories(tmp_path: Path) -> None:
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": objects(1.0, 0, 1)})
    write_text(tmp_path / "README.md", README)
    dataset = open_dataset(tmp_path, "train")
    assert [dataset.categories[label].name for label in dataset.labels] == ["dog", "no", "dog"]


def test_a_class_number_that_the_readme_has_twice(tmp_path: Path) -> None:
    write_lines(tmp_path / "train/metadata.jsonl", {"file_name": "a.png", "objects": objects(1)})
    write_text(tmp_path / "README.md", README.replace("'2': cow", "'1': cow"))
    with pytest.raises(DataError, match=r"README\.md, line 15 has the key '1' again: remove one of the two\.$"):
        open_dataset(tmp_path, "train")


def test_boxes_outside_their_picture_are_left_out(tmp_path: Path) -> None:
    write_picture(tmp_path / "train/a.png")
    objects = {"bbox": [[40, 1, 4, 4], [1, 1, 4, 4], [5, -9, 4, 9]], "categories": ["cat", "dog", "cat"]}
    write_text(tmp_path / "train/metadata.jsonl", json.dumps({"file_name": "a.png", "objects": objects}))
    dataset = open_dataset(tmp_path, "train")
    assert dataset.boxes_xyxy.tolist() == [[1, 1, 5, 5]]
    assert [category.name for category in dataset.categories] == ["cat", "dog"]
    assert dataset.notes == (
        "2 of 3 boxes lie wholly outside the image and were left out (the first: annotation 1 of a.png); COCO's own evaluation would count each "
        "as an object that was missed.",
    )
