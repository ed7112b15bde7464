"""Pascal VOC folders: exact boxes, classes and ids shared by all splits, and a clear message for whatever cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from voc_folders import thing, voc_folder, write_annotation, write_split

from detrkit.data import ImageFiles, open_dataset
from detrkit.data.transforms import relative_target
from detrkit.data.voc import read_voc
from detrkit.errors import DataError
from detrkit.evaluation import evaluate_detections


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
    assert dataset.notes[0].startswith("1 of 2 objects is marked difficult and was made a crowd region: not")
    (box_cxcywh,) = relative_target(dataset.objects(0), 6, 8).boxes_cxcywh.tolist()
    assert box_cxcywh == pytest.approx([0.25, 1 / 3, 0.5, 2 / 3])
    truth = dataset.to_coco()
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": score}
        for box, score in (([4, 0, 4, 4], 0.9), ([0, 0, 4, 4], 0.8))
    ]
    assert evaluate_detections(truth, results).figures["AP"] == pytest.approx(1.0)  # the better one is not a mistake


def test_boxes_without_area_are_dropped_with_a_note(tmp_path: Path) -> None:
    objects = [thing("cat", box) for box in ((1, 1, 4, 4), (3, 3, 3, 5), (5, 2, 5, 2), (5, 4, 3, 4))]
    dataset = read_voc(voc_folder(tmp_path, *objects), "train")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 4, 4]]
    assert dataset.notes == (
        "3 of 4 boxes have no area (xmin is xmax, or ymin is ymax) and were left out (the first: object 2 of a.xml).",
    )


def test_a_split_in_which_no_box_has_an_area_is_refused(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path, thing("cat", (3, 3, 3, 5)), thing("cat", (5, 2, 5, 2)))
    message = (
        f"{folder}/ImageSets/Main/train.txt: all 2 boxes have no area (xmin is xmax, or ymin is ymax), so there is nothing to find in this "
        "split (the first: object 1 of a.xml); draw the boxes again, or export the annotations again."
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_voc(folder, "train")


def test_swapped_corners_are_swapped_back(tmp_path: Path) -> None:
    write_annotation(tmp_path, "b", thing("cat", (1, 1, 8, 6)))
    write_annotation(
        tmp_path, "a", thing("cat", (8, 6, 1, 1)), thing("cat", (4, 2, 3, 6)), thing("cat", (3, 6, 4.5, 2))
    )
    write_split(tmp_path, "train", "b", "a")
    dataset = read_voc(tmp_path, "train")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 8, 6], [0, 0, 8, 6], [2, 1, 4, 6], [2, 1, 4.5, 6]]
    assert dataset.notes == (
        "3 of 4 boxes have swapped corners (xmin above xmax, or ymin above ymax), which were swapped back (the first: object 1 of a.xml).",
    )


def test_options_as_for_coco(tmp_path: Path) -> None:
    voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)))
    dataset = read_voc(tmp_path, "train", orientation="stored", stretch_16bit=True)
    assert isinstance(dataset.images, ImageFiles)
    assert (dataset.images.stretch_16bit, dataset.images.as_stored.tolist()) == (True, [False])
    with pytest.raises(DataError, match="There is no orientation 'up'"):
        read_voc(tmp_path, "train", orientation="up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "crowd"),
    [
        *((text, True) for text in ("1", " 1 ", "true", "True", "1.0", "YES", "\n1\n")),
        *((text, False) for text in ("0", "", " ", "false", "no", "Unspecified", "unspecified", "0.0")),
    ],
)
def test_spellings_of_difficult(tmp_path: Path, text: str, crowd: bool) -> None:
    folder = voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)), thing("cat", (1, 1, 8, 4), difficult=text))
    assert read_voc(folder, "train").crowd.tolist() == [False, crowd]


def test_pose_truncated_and_difficult_may_be_missing(tmp_path: Path) -> None:
    plain = thing("cat", (1, 1, 4, 4)).replace("<difficult>0</difficult>", "")
    dataset = read_voc(voc_folder(tmp_path, plain), "train")
    assert (dataset.crowd.tolist(), dataset.notes) == ([False], ())


def test_decimal_commas(tmp_path: Path) -> None:
    folder = voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)), thing("cat", ("1,5", "2", "4,25", "5")))
    dataset = read_voc(folder, "train")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 4, 4], [0.5, 1, 4.25, 5]]
    assert dataset.notes == (
        "1 of 2 boxes has decimal commas, which were read as decimal points (the first: object 2 of a.xml).",
    )


POLYGONS = (
    "<polygon><x1>3</x1><y1>2</y1><x2>6</x2><y2>2</y2><x3>4.5</x3><y3>5</y3></polygon>",
    "<polygon><pt><x>3</x><y>5</y></pt><pt><x>6</x><y>4</y></pt><pt><x>4</x><y>2</y></pt></polygon>",
)


@pytest.mark.parametrize("polygon", POLYGONS)
def test_a_polygon_gives_the_box_where_there_is_none(tmp_path: Path, polygon: str) -> None:
    with_box = thing("cat", (1, 1, 4, 4)).replace("<bndbox>", f"{polygon}<bndbox>")
    without = [f"<object><name>cat</name>{empty}{polygon}</object>" for empty in ("", "<bndbox/>")]
    dataset = read_voc(voc_folder(tmp_path, with_box, *without), "train")
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 4, 4], [2, 1, 6, 5], [2, 1, 6, 5]]
    assert dataset.notes == (
        "2 of 3 objects have a polygon and no bndbox, and got the box around it (the first: object 2 of a.xml).",
    )


def encoded(encoding: str, name: str, declared: str | None = None) -> bytes:
    text = (
        f'<?xml version="1.0" encoding="{declared or encoding}"?><annotation>{thing(name, (1, 1, 4, 4))}</annotation>'
    )
    return text.encode(encoding)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (encoded("utf-8", "猫"), "猫"),
        (b"\xef\xbb\xbf" + encoded("utf-8", "猫"), "猫"),
        (b"\n  " + encoded("utf-8", "猫"), "猫"),
        (encoded("utf-16", "猫"), "猫"),
        (encoded("utf-16-le", "猫", "utf-16"), "猫"),
        (encoded("utf-16-be", "猫", "utf-16"), "猫"),
        (encoded("utf-8", "кот", "utf-16"), "кот"),
        (encoded("latin-1", "chaîne", "ISO-8859-1"), "chaîne"),
        (encoded("cp1251", "кот", "windows-1251"), "кот"),
        (encoded("gbk", "猫", "GB2312"), "猫"),
        (f"<annotation>{thing('猫', (1, 1, 4, 4))}</annotation>".encode(), "猫"),
        (f'<annotation xmlns="http://a/b">{thing("cat", (1, 1, 4, 4))}</annotation>'.encode(), "cat"),
        (
            b'<v:Annotation xmlns:v="x"><v:Object><v:name>cat</v:name><v:bndbox><v:xMin>1</v:xMin><v:yMin>1</v:yMin><v:xMax>4</v:xMax>'
            b"<v:yMax>4</v:yMax></v:bndbox></v:Object></v:Annotation>",
            "cat",
        ),
    ],
)
def test_encodings_and_namespaces(tmp_path: Path, content: bytes, name: str) -> None:
    folder = voc_folder(tmp_path)
    (folder / "Annotations/a.xml").write_bytes(content)
    dataset = read_voc(folder, "train")
    assert [entry.name for entry in dataset.categories] == [name]
    assert dataset.boxes_xyxy.tolist() == [[0, 0, 4, 4]]


def test_the_corners_lose_no_digit(tmp_path: Path) -> None:
    dataset = read_voc(voc_folder(tmp_path, thing("cat", (1.1, 1.003, 4.7, 5.9))), "train")
    assert dataset.boxes_xyxy.tolist() == [[0.1, 0.003, 4.7, 5.9]]  # in float64, 1.1 - 1 is 0.10000000000000009


def test_a_damaged_picture_is_named_by_the_check_of_all_pictures(tmp_path: Path) -> None:
    voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)))
    (tmp_path / "JPEGImages/a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png is not a readable image file"):
        read_voc(tmp_path, "train")


def test_most_boxes_decide_whether_they_are_fractions(tmp_path: Path) -> None:
    fractions = [thing("cat", box) for box in ((0.1, 0.1, 0.5, 0.9), (0.2, 0.1, 1.0001, 0.9), (0, 0, 1, 1))]
    with pytest.raises(
        DataError, match=r"train\.txt: 2 of 3 boxes lie within 0\.\.1, so they are fractions of the image; multi"
    ):
        read_voc(voc_folder(tmp_path, *fractions), "train")
    pixels = [thing("cat", box) for box in ((0, 0, 1, 1), (1, 1, 4, 4), (2, 2, 5, 6))]
    assert len(read_voc(voc_folder(tmp_path, *pixels), "train").labels) == 3


def test_images_without_objects_and_boxes_beyond_the_edge_are_kept(tmp_path: Path) -> None:
    write_annotation(tmp_path, "a", thing("cat", (5, 2, 20, 6)))
    write_annotation(tmp_path, "empty", size="<width>0</width><height>0</height>")
    write_split(tmp_path, "train", "empty", "a")
    dataset = read_voc(tmp_path, "train")
    assert [len(dataset.objects(index)) for index in range(2)] == [0, 1]
    assert dataset.boxes_xyxy.tolist() == [[4, 1, 20, 6]]
    assert "1 of 1 box extends beyond the image" in dataset.notes[0]
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
        (
            "<html></html>",
            r"a\.xml holds <html>, not <annotation>: export the annotations as Pascal VOC, or move it away",
        ),
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
        (
            "<annotation><object><name>cat</name></object></annotation>",
            r"a\.xml: object 1 \(cat\) has no bndbox; give it one with xmin, ymin, xmax, ymax\.",
        ),
        (
            f"<annotation>{thing('cat', (1, 1, 2, 2)).replace('<ymax>2</ymax>', '')}</annotation>",
            r"object 1 \(cat\) has no bndbox/ymax; give a number of pixels\.",
        ),
        (
            f"<annotation>{thing('cat', (1, '', 2, 2))}</annotation>",
            r"object 1 \(cat\) has no bndbox/ymin; give a number of pixels\.",
        ),
        *(
            (
                f"<annotation>{thing('cat', (1, text, 2, 2))}</annotation>",
                rf"object 1 \(cat\) has the bndbox/ymin '{re.escape(text)}'; give a number of pixels\.",
            )
            for text in ("1,2,3", "1.234,5", "1_0", "12 px", "inf", "1e999")
        ),
        (
            "<annotation><object><name>cat</name><robndbox><cx>4</cx><cy>3</cy><w>2</w><h>2</h><angle>1</angle></robndbox></object></annotation>",
            r"object 1 \(cat\) has a rotated box \(robndbox\), but detectors here find upright ones; export bndbox instead\.",
        ),
        (
            "<annotation><object><name>cat</name><polygon><x1>1</x1><y1>1</y1><x2>4</x2></polygon></object></annotation>",
            r"object 1 \(cat\) has neither a bndbox nor a polygon with an x and a y for each point; give it one of them\.",
        ),
        (
            "<annotation><object><name>cat</name><polygon><x1>1</x1><y1>wide</y1><x2>4</x2><y2>4</y2></polygon></object></annotation>",
            r"object 1 \(cat\) has the polygon/y 'wide'; give a number of pixels\.",
        ),
        (
            f"<annotation>{thing('cat', (1, 1, 2, 2)).replace('<bndbox>', '<bndbox><xmin>1</xmin></bndbox><bndbox>')}</annotation>",
            r"object 1 \(cat\) has 2 bndbox; make it one object for each\.",
        ),
        (
            f"<annotation>{thing('cat', (1, 1, 2, 2), difficult='maybe')}</annotation>",
            r"object 1 \(cat\) has difficult 'maybe'; give 0 or 1\.",
        ),
        (
            "<annotation><size><width>wide</width><height>6</height></size></annotation>",
            r"a\.xml has the size/width 'wide'; give a number",
        ),
        (
            f"<annotation><size><width>10</width><height>6</height></size>{thing('cat', (1, 1, 3, 3))}</annotation>",
            r"a\.xml has 10 × 6 \(the picture 8 × 6\); use the pictures that were annotated",
        ),
        (
            f"<annotation>{thing('cat', (0.1, 0.1, 0.5, 1))}</annotation>",
            r"train\.txt: all boxes lie within 0\.\.1, so they are fractions of the image; multiply",
        ),
    ],
)
def test_an_annotation_file_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    voc_folder(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        read_voc(tmp_path, "train")


def test_bytes_that_are_not_in_the_encoding(tmp_path: Path) -> None:
    voc_folder(tmp_path)
    (tmp_path / "Annotations/a.xml").write_bytes(encoded("latin-1", "chaîne", "utf-8"))
    with pytest.raises(DataError, match=r"a\.xml is not text in utf-8: save it as UTF-8, or declare its encoding\."):
        read_voc(tmp_path, "train")


def test_all_annotation_files_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    for name in "abcdef":
        write_annotation(tmp_path, name, thing("cat" if name in "ac" else "", (1, 1, 4, 4)))
    write_split(tmp_path, "train", *"abcdef")
    message = r"b\.xml: object 1 has no name; give it one\. \(4 of the 6 XML files cannot be used: b\.xml, d\.xml, e\.xml and 1 more\.\)"
    with pytest.raises(DataError, match=message):
        read_voc(tmp_path, "train")


def test_missing_files(tmp_path: Path) -> None:
    voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)))
    write_split(tmp_path, "test", "later", "a", "much_later")  # the files of a split that nobody opens need not exist
    assert len(read_voc(tmp_path, "train")) == 1
    message = (
        f"{tmp_path}/ImageSets/Main/test.txt lists 'later', but {tmp_path}/Annotations has no XML file of that name: add the file, or correct "
        "the list. (2 of 3 images have no XML file: later, much_later.)"
    )
    with pytest.raises(DataError, match=re.escape(message)):
        read_voc(tmp_path, "test")
    with pytest.raises(DataError, match=r"has no split 'val': choose one of 'test', 'train'"):
        read_voc(tmp_path, "val")
    with pytest.raises(
        DataError, match=r"nowhere is not a Pascal VOC folder: it has none of ImageSets/Main/<split>\.txt,"
    ):
        read_voc(tmp_path / "nowhere", "val")
    write_split(tmp_path, "val")
    with pytest.raises(
        DataError, match=r"ImageSets/Main/val\.txt lists no images: write the names of the split's images"
    ):
        read_voc(tmp_path, "val")
    (tmp_path / "JPEGImages/a.png").unlink()
    with pytest.raises(
        DataError,
        match=r"a\.xml has no picture of its own in .*JPEGImages: put one there that is named like it, or rem",
    ):
        read_voc(tmp_path, "train")


def test_a_list_that_cannot_be_used(tmp_path: Path) -> None:
    voc_folder(tmp_path, thing("cat", (1, 1, 4, 4)))
    write_split(tmp_path, "train", "a", "a")
    with pytest.raises(DataError, match=r"train\.txt lists a twice: remove one of the two lines\.$"):
        read_voc(tmp_path, "train")
    write_split(tmp_path, "train", "a", "a.xml", "a.jpg")
    with pytest.raises(DataError, match=r"lists a twice: .*\. \(2 of its 3 lines repeat others: a, a\.\)"):
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
