"""YOLO labels: every way that tools write a line gives the right box, and whatever cannot be used is named with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.yolo_files import write_picture, write_text, write_yolo_set

from detrkit.data import DetectionDataset, ImageFiles, available_splits, open_dataset
from detrkit.data.yolo import read_yolo
from detrkit.errors import DataError


def read_line(folder: Path, text: str, description: str = "names: [cat, dog, cow, owl]") -> DetectionDataset:
    return open_dataset(write_yolo_set(folder, {"a": text}, description), "train")


@pytest.mark.parametrize("path", ["", "data.yaml"])
def test_real_export_with_boxes_and_outlines(shared: Path, path: str) -> None:
    data = shared / "data/yolo_sample" / path
    assert available_splits(data) == ["train", "val", "test"]
    found = [open_dataset(data, split) for split in ("train", "val", "test")]
    # The README counts boxes and outlines.
    assert [len(dataset.labels) for dataset in found] == [73 + 20, 23 + 7, 15 + 5]
    assert [len(dataset) for dataset in found] == [64, 20, 12]
    assert [len(set(dataset.labels.tolist())) for dataset in found] == [15, 15, 10]
    assert all(dataset.notes == () for dataset in found)
    assert [dataset.name for dataset in found] == ["yolo_sample train", "yolo_sample val", "yolo_sample test"]
    assert [(category.id, category.name) for category in found[0].categories][::15] == [(0, "crackdown"), (15, "uturn")]
    assert found[0].image_ids.tolist() == list(range(1, 65))


def test_a_real_outline_gives_its_hull(shared: Path) -> None:
    folder = shared / "data/yolo_sample/train"
    dataset = read_yolo(shared / "data/yolo_sample", "train")
    for index in range(len(dataset)):
        lines = (folder / f"labels/{Path(dataset.image_name(index)).stem}.txt").read_text().split("\n")
        numbers = [[float(word) * 416 for word in line.split()[1:]] for line in lines if line.strip()]
        for box, each in zip(dataset.objects(index).boxes_xyxy.tolist(), numbers, strict=True):
            if len(each) == 4:
                x, y, width, height = each
                expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            else:
                expected = [min(each[::2]), min(each[1::2]), max(each[::2]), max(each[1::2])]
            assert box == pytest.approx(expected, abs=1e-9)


def test_boxes_classes_and_numbers(tmp_path: Path) -> None:
    labels = {"b": "1 0.5 0.5 0.25 0.5\n0 0.25 0.5 0.5 1\n", "a": "", "c": "1 0.5 0.5 1 1\n"}
    dataset = open_dataset(write_yolo_set(tmp_path, labels, "names: [cat, dog, cow]\nnc: 3"), "train")
    assert [dataset.image_name(index) for index in range(3)] == ["a.png", "b.png", "c.png"]
    assert dataset.image_ids.tolist() == [1, 2, 3]
    assert dataset.sizes.tolist() == [[20, 40]] * 3
    assert dataset.offsets.tolist() == [0, 0, 2, 3]
    assert dataset.boxes_xyxy.tolist() == [[15, 5, 25, 15], [0, 0, 20, 20], [0, 0, 40, 20]]
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.areas.tolist() == [100, 400, 800]
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "cat"), (1, "dog"), (2, "cow")]
    assert dataset.notes == ()


@pytest.mark.parametrize(
    "line",
    [
        "1 0.5 0.5 0.25 0.5",
        "1.0 0.5 0.5 0.25 0.5",
        "  1\t0.5\t0.5   0.25 5e-1  ",
        "1,0.5,0.5,0.25,0.5",
        "1, 0.5, 0.5, 0.25, 0.5",
        "1;0.5;0.5;0.25;0.5",
        "1 0,5 0,5 0,25 0,5",
        "\ufeff1 0.5 0.5 0.25 0.5\r\n\r\n",
        "\n   \n1 0.5 0.5 0.25 0.5",
        "1 .5 .5 .25 .5\r",
        "1 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75",  # an oriented box, or an outline of four corners
    ],
)
def test_ways_to_write_a_box(tmp_path: Path, line: str) -> None:
    dataset = read_line(tmp_path, line)
    assert dataset.boxes_xyxy.tolist() == [[15, 5, 25, 15]]
    assert dataset.labels.tolist() == [1]
    assert dataset.areas.tolist() == [100]
    assert dataset.notes == ()


def test_utf16_as_powershell_writes_it(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path, {"a": ""})
    for file in (folder / "labels/train/a.txt", folder / "data.yaml"):
        text = file.read_text() or "1 0.5 0.5 0.25 0.5\n"
        file.write_bytes(text.encode("utf-16"))
    assert open_dataset(folder, "train").boxes_xyxy.tolist() == [[15, 5, 25, 15]]


def test_outlines_have_their_own_area(tmp_path: Path) -> None:
    dataset = read_line(tmp_path, "0 0.25 0.25 0.75 0.25 0.25 0.75\n0 0.1 0.1 0.2 0.2 0.3 0.3\n")
    assert dataset.boxes_xyxy[0].tolist() == [10, 5, 30, 15]
    assert dataset.areas.tolist() == pytest.approx([100, 8 * 4])  # a triangle, and a line whose box counts


def test_a_sixth_number_is_left_out_with_a_note(tmp_path: Path) -> None:
    dataset = read_line(tmp_path, "1 0.5 0.5 0.25 0.5 0.87\n1 0.5 0.5 0.5 0.5 12\n")
    assert dataset.boxes_xyxy.tolist() == [[15, 5, 25, 15], [10, 5, 30, 15]]
    where = f"{tmp_path}/labels/train/a.txt, line 1"
    assert dataset.notes == (
        f"2 lines have a sixth number, a confidence or the number of a track, which was left out (the first: {where}).",
    )


def test_key_points_are_left_out_where_the_yaml_file_says_how_many(tmp_path: Path) -> None:
    line = "1 0.5 0.5 0.25 0.5 0.4 0.4 2 0.6 0.6 1"
    dataset = read_line(tmp_path, f"{line}\n0 0.5 0.5 0.5 0.5", "names: [cat, dog]\nkpt_shape: [2, 3]")
    assert dataset.boxes_xyxy.tolist() == [[15, 5, 25, 15], [10, 5, 30, 15]]
    assert dataset.notes == (
        f"1 line has key points, which were left out (the first: {tmp_path}/labels/train/a.txt, line 1).",
    )
    with pytest.raises(
        DataError, match=r"a\.txt, line 1 has 9 numbers: with this kpt_shape a line has 11, or 5 without"
    ):
        read_line(tmp_path, "1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", "names: [cat, dog]\nkpt_shape: [2, 3]")


def test_rounding_is_clipped_with_a_note(tmp_path: Path) -> None:
    dataset = read_line(tmp_path, "1 0.5 0.5 1.0001 1\n0 -0.003 0 1.01 0 1.01 1 0 1\n0 0.5 0.5 0.5 0.5\n")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 40, 20], [0, 0, 40, 20], [10, 5, 30, 15]]
    assert dataset.notes == (
        "2 lines have numbers that leave 0..1 by no more than a hundredth; they were clipped (the first: "
        f"{tmp_path}/labels/train/a.txt, line 1).",
    )


def test_repeated_lines_and_empty_boxes_are_left_out_with_a_note(tmp_path: Path) -> None:
    dataset = read_line(tmp_path, "1 .5 .5 .5 .5\n1.0 0.5 0.5 0.5 0.50\n0 .5 .5 .5 .5\n1 .5 .5 0 .5\n1 .5 .5 .5 -.004")
    assert dataset.labels.tolist() == [1, 0]
    where = f"{tmp_path}/labels/train/a.txt, line"
    assert dataset.notes == (
        f"1 line has numbers that leave 0..1 by no more than a hundredth; they were clipped (the first: {where} 5).",
        f"1 line repeats another line of its file and was left out (the first: {where} 2).",
        f"2 boxes have no area and were left out (the first: {where} 4).",
    )


def test_fractions_are_of_the_picture_as_it_is_shown(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": "0 0.25 0.5 0.5 1"})
    (tmp_path / "images/train/a.png").unlink()
    write_picture(tmp_path / "images/train/a.jpg", orientation=6)
    dataset = open_dataset(tmp_path, "train")
    assert dataset.sizes.tolist() == [[40, 20]]
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 10, 40]]
    assert dataset.image(0).size == (20, 40)
    assert dataset.notes == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("4 .5 .5 .5 .5", r"a\.txt, line 1 has the class 4, which .*data\.yaml does not name \(0 cat, 1 dog, 2 cow, 3 owl\): correct"),
        ("0 .5 .5 .5 .5\n-1 .5 .5 .5 .5", r"a\.txt, line 2 has the class -1, which .*data\.yaml does not name"),
        ("1.5 .5 .5 .5 .5", r"a\.txt, line 1 has the class 1\.5: give a whole number\."),
        ("cat .5 .5 .5 .5", r"a\.txt, line 1 has the class 'cat': write the number of the class and fractions\."),
        ("1 .5 .5 .5 x", r"a\.txt, line 1 has the number 'x': write the number of the class and fractions\."),
        ("1 .5 nan .5 .5", r"a\.txt, line 1 is '1 \.5 nan \.5 \.5', which is not finite: correct or remove it\."),
        ("1 .5 inf .5 .5", r"line 1 is '1 \.5 inf \.5 \.5', which is not finite"),
        ("1 .5 .5 .5", r"a\.txt, line 1 has 4 numbers: a box has 5 \(class, centre x, centre y, width, height\), an outline"),
        ("1 " + ".1 " * 7, r"line 1 has 8 numbers: a box has 5 .* three corners, and key points need their kpt_shape in the YAML"),
        ("1 .5 .5 .5 .5 -.7", r"line 1 has the sixth number -0\.7, neither a confidence nor the number of a track: export oriented"),
        ("1 .5 .5 .5 .5 1.57", r"line 1 has the sixth number 1\.57, neither"),
        ("1 .5 .5 .5 1.02", r"a\.txt, line 1 has the number 1\.02 outside 0\.\.1: give fractions of the picture's width and height\."),
        ("1 .5 -.2 .5 .5", r"a\.txt, line 1 has the number -0\.2 outside 0\.\.1"),
        ("1 .5 .5 .2 .2 .4 .4 2 .6 .6 1", r"line 1 has 11 numbers that look like a box and key points: write their kpt_shape"),
        ("5 .5 .5 .5 .5\n0 .1 .1 .1 .1\n6 .5 .5 .5 .5\n7 .5 .5 .5 .5\n8 .5 .5 .5 .5",
         r"line 1 has the class 5, .* \(4 of this kind, also in .*a\.txt, line 3 and .*a\.txt, line 4\.\)"),
        ("1 12 9 5 6\n0 30 10 9.5 3\n", r"a\.txt, line 1 has numbers above 1, as most of the labels have \(8 of 8 numbers\): they are "
         r"pixels, not fractions of the picture; divide them by the picture's width and height\."),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_line(tmp_path, text)


def test_labels_that_are_no_text_are_named(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path, {"a": "", "b": "0 .5 .5 .5 .5"})
    (folder / "labels/train/a.txt").write_bytes(b"\xff\xd8\xff\xe0 1 2 3")
    with pytest.raises(DataError, match=r"train/a\.txt is not UTF-8 text: save it as UTF-8\.$"):
        open_dataset(folder, "train")


def test_percent_is_told_from_pixels(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path, {"a": "1 12 9 5 100\n0 30 10 9.5 3\n"})
    write_picture(folder / "images/train/a.png", size=(640, 480))
    with pytest.raises(DataError, match=r"they are percent, not fractions of the picture; divide them by 100\."):
        open_dataset(folder, "train")


@pytest.mark.parametrize(
    ("line", "meaning"),
    [("0 0.1 0.1 0.9 0.{}", "left, top, right, bottom"), ("0 0.01 0.01 0.9 0.{}", "left, top, right, bottom"),
     ("0 0.05 0.5 0.3 0.{}", "left, top, width, height")],
)  # fmt: skip
def test_boxes_with_another_meaning_are_named(tmp_path: Path, line: str, meaning: str) -> None:
    lines = [line.format(digit) for digit in (21, 22, 33, 44, 45)]
    with pytest.raises(DataError, match=rf"leave their pictures, but would lie inside if the numbers were {meaning}"):
        read_line(tmp_path, "\n".join(lines))


def test_boxes_beyond_the_edge_stay_as_annotated(tmp_path: Path) -> None:
    dataset = read_line(tmp_path, "0 0.1 0.5 0.5 0.5\n")
    assert dataset.boxes_xyxy.tolist() == [[pytest.approx(-6), 5, pytest.approx(14), 15]]
    assert "1 of 1 box extends beyond the image" in dataset.notes[0]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("names: [no, on, 1e3, 007]", {0: "no", 1: "on", 2: "1e3", 3: "007"}),
        ("names: {1: dog, 0: cat}", {0: "cat", 1: "dog"}),
        ("names: {'0': cat, \"1\": dog}\nnc: 2", {0: "cat", 1: "dog"}),
        ("names:\n  0: cat\n  3: owl\nnc: 4", {0: "cat", 3: "owl"}),
        ("names:\n- cat\n- 'dog: big'", {0: "cat", 1: "dog: big"}),
        ("nc: 2", {0: "0", 1: "1"}),
        ("nc: 2\nnames:", {0: "0", 1: "1"}),
    ],
)
def test_names(tmp_path: Path, description: str, expected: dict[int, str]) -> None:
    dataset = read_line(tmp_path, "0 .5 .5 .5 .5", description)
    assert {category.id: category.name for category in dataset.categories} == expected
    note = "data.yaml gives no names but the number of classes, so they are called '0' to '1'."
    assert dataset.notes == ((note,) if "nc: 2" in description and "{" not in description else ())


@pytest.mark.parametrize(
    ("description", "sentence"),
    [
        ("names: [a, b, c]\nnc: 2", r"data\.yaml: nc is 2, but names has 3 \(a, b, c\): make the two agree\."),
        ("names: {0: a, 1: b}\nnc: 3", r"nc is 3, but names has 2 \(a, b\)"),
        ("names: [a]\nnc: many", r"data\.yaml: nc is 'many'; give the number of classes\."),
        ("names: []", r"data\.yaml has no class names: list them under 'names'\."),
        ("names: cats and dogs", r"data\.yaml: names is 'cats and dogs'; give a list of texts\."),
        ("names: [[a], b]", r"data\.yaml: names has the entry \['a'\]; give a list of texts\."),
        ("names: {cat: 0}", r"data\.yaml: names has the key 'cat'; give whole numbers from 0, each with its name\."),
        ("names: {-1: cat}", r"names has the key '-1'; give whole"),
        ("names: {0: [cat]}", r"data\.yaml: names has \['cat'\] for class 0; give a text\."),
        ("names: {0: cat, '00': dog}", r"data\.yaml: names has class 0 twice; remove one of the two\."),
        ("names: [cat, cat]", r"both named 'cat'"),
        ("names: [cat", r"data\.yaml cannot be parsed as YAML \(while parsing a flow sequence.*\): correct it or export it again\."),
        ("names: [a]\nkpt_shape: 17", r"data\.yaml: kpt_shape is '17'; give the number of key points, and 2 or 3"),
        ("names: [a]\npath: [x, y]", r"data\.yaml: 'path' is \['x', 'y'\]; give one folder\."),
        ("names: [a]\nval: {x: y}", r"data\.yaml: 'val' is \{'x': 'y'\}; give a folder, a text file, or a list of them\."),
    ],
)  # fmt: skip
def test_errors_in_the_yaml_file_are_named(tmp_path: Path, description: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_line(tmp_path, "0 .5 .5 .5 .5", description)


def test_a_yaml_file_that_describes_no_data_set(tmp_path: Path) -> None:
    write_text(tmp_path / "hyper.yaml", "lr0: 0.01\ntrain: x\n")
    with pytest.raises(
        DataError, match=r"hyper\.yaml does not describe a YOLO data set: it needs 'names' and at least one"
    ):
        open_dataset(tmp_path / "hyper.yaml", "train")
    with pytest.raises(
        DataError, match=r"contains no readable data set: looked for .* data\.yaml, .*found hyper\.yaml"
    ):
        open_dataset(tmp_path, "train")


def test_without_names_all_splits_have_the_same_classes(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("val", 3)):
        write_picture(tmp_path / f"images/{split}/a.png")
        write_text(tmp_path / f"labels/{split}/a.txt", f"{number} .5 .5 .5 .5")
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        assert [(category.id, category.name) for category in dataset.categories] == [(0, "0"), (3, "3")]
        assert dataset.notes == (
            f"{tmp_path} has neither a YAML file nor classes.txt, so its classes are called by their numbers.",
        )
    write_text(tmp_path / "classes.txt", "cat\r\ndog\r\ncow\r\nowl\r\n\r\n")
    assert [category.name for category in open_dataset(tmp_path, "val").categories] == ["cat", "dog", "cow", "owl"]
    write_text(tmp_path / "classes.txt", "cat\n\ndog")
    with pytest.raises(
        DataError, match=r"classes\.txt has an empty line or no names: write one class name in each line"
    ):
        open_dataset(tmp_path, "val")


def test_read_yolo_names_the_splits(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path, {"a": "0 .5 .5 .5 .5"})
    assert read_yolo(folder, "train").name == f"{tmp_path.name} train"
    with pytest.raises(DataError, match=r"has no split 'val' in YOLO's layout, but train\."):
        read_yolo(folder / "data.yaml", "val")


def test_read_yolo_takes_every_name_of_val_and_stretches(tmp_path: Path) -> None:
    folder = write_yolo_set(tmp_path, {"a": "0 .5 .5 .5 .5"}, "names: [cat]\nval: images/train")
    dataset = read_yolo(folder, "validation", stretch_16bit=True)
    assert dataset.name == f"{tmp_path.name} validation"
    assert isinstance(dataset.images, ImageFiles)
    assert dataset.images.stretch_16bit


@pytest.mark.parametrize(
    ("description", "line", "key"),
    [
        ("names:\n  0: cat\n  1: dog\n  0: cow", 5, "0"),
        ("names: [cat]\nval: a\nval: b", 4, "val"),
        ("names: [cat]\nnames: [dog]", 3, "names"),
    ],
)
def test_keys_that_are_there_twice(tmp_path: Path, description: str, line: int, key: str) -> None:
    write_yolo_set(tmp_path, {"a": "0 .5 .5 .5 .5"}, description)
    with pytest.raises(
        DataError, match=rf"data\.yaml, line {line} has the key '{key}' again: remove one of the two\.$"
    ):
        open_dataset(tmp_path, "train")
