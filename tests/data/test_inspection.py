"""Each finding about annotations, with a data set that has the fault, and data sets that look like it but are fine."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from data.yolo_files import write_yolo_set
from inspected_data import CAT, DOG, GOOD, ONE, found, only, opened, write_split
from voc_folders import thing, voc_folder

from detrkit.coco_limits import AREAS
from detrkit.data import read_digits
from detrkit.data.findings import Note
from detrkit.data.inspection import KINDS, Split
from detrkit.data.inspection.boxes import overlapping_pairs
from detrkit.data.inspection.objects import unusually_few
from detrkit.data.inspection.reading import reader_notes
from detrkit.data.inspection.statistics import Quantiles, statistics_of
from detrkit.errors import DataError
from detrkit.evaluation import inspect_data
from detrkit.models.catalog import CATALOG, changed_config, fitting_queries

REPOSITORY = Path(__file__).resolve().parents[2]


def test_nothing_is_wrong(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    write_split(tmp_path, "val", GOOD)
    inspection = inspect_data(tmp_path)
    assert inspection.findings == ()
    assert inspection.exit_code == 0
    assert inspection.round_trips == {"train": 1.0, "val": 1.0}
    assert inspection.lines() == [inspection.verdict()]
    assert inspection.verdict().startswith(f"{tmp_path}: fine (0 errors, 0 warnings, 0 notes; 20 pictures looked at, ")


def test_the_table_of_all_findings() -> None:
    """The page says of every kind what the code says, and of no other."""
    text = (REPOSITORY / "docs/inspect.md").read_text(encoding="utf-8").partition("## What it can find\n")[2]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.strip().splitlines()[2:]]
    assert rows == [
        [f"`{name}`", kind.severity, kind.meaning, kind.remedy.replace("{queries}", "N").replace("{split}", "trainval")]
        for name, kind in KINDS.items()
    ]


def test_statistics(tmp_path: Path) -> None:
    images = [ONE, [], [(DOG, [0, 0, 10, 40]), (DOG, [50, 50, 100, 60]), (CAT, [0, 60, 30, 30], True)]]
    statistics = statistics_of(opened(write_split(tmp_path, "train", images)))
    assert (statistics.images, statistics.empty, statistics.objects, statistics.crowds) == (3, 1, 3, 1)
    assert (statistics.small, statistics.medium, statistics.large) == (1, 2, 0)
    assert [(each.name, each.objects, each.images) for each in statistics.classes] == [(CAT, 1, 1), (DOG, 2, 1)]
    assert statistics.objects_per_image == Quantiles(0, pytest.approx(0.1), 1, pytest.approx(1.9), 2)
    assert statistics.box_sides is not None
    assert statistics.box_sides.median == pytest.approx(3000**0.5)
    assert statistics.box_aspects is not None
    assert (statistics.box_aspects.lowest, statistics.box_aspects.highest) == (0.25, pytest.approx(100 / 60))
    assert str(statistics.picture_aspects) == "1.33 · 1.33 · 1.33"


def test_a_split_without_objects_has_no_spreads(tmp_path: Path) -> None:
    statistics = statistics_of(opened(write_split(tmp_path, "val", [[], []]), "val"))
    assert statistics.box_sides is None
    assert statistics.objects_per_image == Quantiles(0, 0, 0, 0, 0)


def test_thin_boxes(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [20, 20, 0.4, 30])], [(CAT, [20, 20, 1, 1])]])
    one = only(tmp_path, "thin-boxes")
    assert one.message == "1 of 22 boxes is less than a pixel wide or high (train_10.jpg)."
    assert (one.severity, one.split, one.files, one.count) == ("warning", "train", ("train_10.jpg",), 1)


def test_boxes_outside(tmp_path: Path) -> None:
    things = [(CAT, [200, 20, 30, 30]), (CAT, [-40, 20, 30, 30]), (DOG, [150, 10, 20, 20]), (DOG, [130, 10, 30.9, 20])]
    write_split(tmp_path, "train", [*GOOD, things, [(DOG, [-9, 20, 30, 30])]])
    off = only(tmp_path, "boxes-off-picture")
    assert off.message.startswith(
        "2 of 25 boxes lie wholly outside the image and were left out (the first: annotation "
    )
    assert (off.severity, off.count, off.files) == ("warning", 2, ("train_10.jpg",))
    over = only(tmp_path, "boxes-over-the-edge")
    assert over.message == "2 of 23 boxes reach over the picture's edge (train_10.jpg, train_11.jpg)."
    assert over.severity == "note"
    assert found(tmp_path, "changed-in-reading") == []  # the reader's note says the same


def test_boxes_without_area(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [20, 20, 0, 30]), (CAT, [20, 20, 9, 30])]])
    one = only(tmp_path, "boxes-without-area")
    assert one.message == ("1 of 22 boxes has no area and was left out (the first: annotation 21 of train_10.jpg).")
    assert (one.count, one.files) == (1, ("train_10.jpg",))
    yolo = write_yolo_set(tmp_path / "yolo", {"a": "0 0.5 0.5 0 0.2\n0 0.5 0.5 0.2 0.2\n", "b": "1 0.5 0.5 0.3 0.3\n"})
    assert only(yolo, "boxes-without-area").files == (str(yolo / "labels/train/a.txt"),)
    voc = voc_folder(tmp_path / "voc", thing("cat", (2, 2, 2, 2)), thing("cat", (2, 2, 5, 5)))
    assert only(voc, "boxes-without-area").files == ("a.xml",)


def test_boxes_that_are_there_twice(tmp_path: Path) -> None:
    box, near, far = [20, 20, 60, 50], [22, 20, 60, 50], [28, 22, 60, 50]
    images = [
        [(CAT, box), (CAT, box)],
        [(CAT, box), (CAT, near)],
        [(CAT, box), (DOG, box)],
        [(CAT, box), (CAT, far), (DOG, [28, 22, 70, 70])],
        [(CAT, box), (CAT, box, True)],
    ]
    write_split(tmp_path, "train", [*GOOD, *images])
    assert only(tmp_path, "duplicate-boxes").message == (
        "1 pair of boxes is the same box of the same class (train_10.jpg: cat at 20, 20)."
    )
    assert only(tmp_path, "near-duplicate-boxes").message == (
        "1 pair of boxes of the same class overlaps with an IoU above 0.85 (train_11.jpg: cat at 20, 20)."
    )
    assert only(tmp_path, "two-class-boxes").message == (
        "1 pair of boxes is the same box with two classes (train_12.jpg: cat and dog at 20, 20)."
    )
    assert inspect_data(tmp_path).exit_code == 0


def test_several_pairs_are_counted(tmp_path: Path) -> None:
    same = [(CAT, [20, 20, 60, 50])] * 3  # three pairs
    write_split(tmp_path, "train", [*GOOD, same, same])
    one = only(tmp_path, "duplicate-boxes")
    assert one.message == (
        "6 pairs of boxes are the same box of the same class (train_10.jpg: cat at 20, 20, train_10.jpg: cat at 20, 20, "
        "train_10.jpg: cat at 20, 20 and 3 more)."
    )
    assert one.files == ("train_10.jpg", "train_11.jpg")


def test_lines_that_repeat_others(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.2 0.2\n"
    yolo = write_yolo_set(tmp_path, {"a": line * 2, "b": "1 0.5 0.5 0.3 0.3\n"})
    one = only(yolo, "duplicate-boxes")
    assert one.message.startswith("1 line repeats another line of its file and was left out")
    assert one.files == (str(yolo / "labels/train/a.txt"),)


def test_pairs_are_those_of_a_plain_search(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = []
    for number in range(12):
        corners = generator.integers(0, 30, (number, 2)).tolist()
        images.append([(CAT, [*corner, *generator.integers(30, 40, 2).tolist()]) for corner in corners])
    split = opened(write_split(tmp_path, "train", images))
    pairs = overlapping_pairs(split, 0.6)
    boxes, offsets = split.dataset.boxes_xyxy, split.dataset.offsets
    expected = []
    for begin, end in pairwise(offsets.tolist()):
        for first in range(begin, end):
            for second in range(first + 1, end):
                low, high = (
                    np.maximum(boxes[first, :2], boxes[second, :2]),
                    np.minimum(boxes[first, 2:], boxes[second, 2:]),
                )
                shared = np.prod(np.maximum(high - low, 0))
                areas = [np.prod(boxes[row, 2:] - boxes[row, :2]) for row in (first, second)]
                if shared / (sum(areas) - shared) > 0.6:
                    expected.append((first, second))
    assert len(expected) > 10
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected


def test_images_without_objects(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [], ONE, []])
    one = only(tmp_path, "images-without-objects")
    assert one.message == "2 of 13 images have no objects (train_10.jpg, train_12.jpg)."
    assert (one.severity, one.files) == ("note", ("train_10.jpg", "train_12.jpg"))


def test_crowd_regions(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [5, 5, 90, 90], True)]])
    assert only(tmp_path, "crowd-regions").message == "1 of 21 annotations is a crowd region (train_10.jpg)."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 5}, "1 of 11 images has more objects, up to 7, than the 5 queries of the model (train_10.jpg)."),
        ({"queries": 7}, None),
        (
            {"queries": 6, "variant": "detr-r50"},
            "1 of 11 images has more objects, up to 7, than the 6 queries of detr-r50 (train_10.jpg).",
        ),
        ({"variant": "detr-compact"}, None),
        ({}, None),
    ],
)
def test_more_objects_than_queries(tmp_path: Path, options: dict[str, object], message: str | None) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [20 * number, 9, 15, 20]) for number in range(7)]])
    messages = [each.message for each in found(tmp_path, "more-objects-than-queries", quick=True, **options)]
    assert messages == ([] if message is None else [message])


def test_more_objects_than_a_variant_has_queries(tmp_path: Path) -> None:
    things = [(CAT, [8 * (number % 18), 10 * (number // 18), 6, 7]) for number in range(101)]
    write_split(tmp_path, "train", [*GOOD, things, things[:20]])
    compact = only(tmp_path, "more-objects-than-queries", quick=True, variant="detr-compact")
    assert compact.message == (
        "2 of 12 images have more objects, up to 101, than the 16 queries of detr-compact (train_10.jpg, train_11.jpg)."
    )
    assert compact.remedy == "Train with more queries (--settings.queries 150), or cut the pictures into tiles."
    usual = only(tmp_path, "more-objects-than-queries", quick=True)
    assert "than the 100 queries of DETR" in usual.message
    figures = only(tmp_path, "more-objects-than-detections")
    assert figures.message == (
        "1 of 12 images has more than 100 objects, up to 101, and detrkit evaluate keeps the 100 best detections of an image (train_10.jpg)."
    )
    assert found(tmp_path, "round-trip") == []


def test_images_that_lack_a_class(tmp_path: Path) -> None:
    many = [(CAT, [10 + 12 * number, 10, 10, 40]) for number in range(12)]
    dog = (DOG, [10, 60, 40, 40])
    images = [[*many[: 10 + number % 3], dog] for number in range(14)]
    write_split(tmp_path, "train", [*images, [dog], [many[0], dog], []])
    one = only(tmp_path, "under-annotated")
    assert one.message == (
        "3 of 17 images have no or few 'cat' (at most 1), while half of the images have at least 11 "
        "(train_14.jpg, train_15.jpg, train_16.jpg)."
    )
    assert one.files == ("train_14.jpg", "train_15.jpg", "train_16.jpg")


def test_a_class_in_a_crowd_region_is_not_missing(tmp_path: Path) -> None:
    many = [(CAT, [10 + 12 * number, 10, 10, 40]) for number in range(8)]
    write_split(tmp_path, "train", [*[many] * 14, [(CAT, [0, 0, 90, 90], True)]])
    assert found(tmp_path, "under-annotated", quick=True) == []


@pytest.mark.parametrize(
    ("counts", "few"),
    [
        ([12, 10, 14, 11, 13, 0], 1),
        ([12, 10, 14, 11, 13, 3], 0),  # somebody has looked
        ([1, 1, 2, 1, 1, 0], 0),  # not many in each
        ([40, 90, 10, 60, 25, 0], 0),  # anything goes
        ([3, 3, 3, 3, 3, 0], 1),
        ([2, 2, 2, 2, 2, 0], 0),
    ],
)
def test_unusually_few(counts: list[int], few: int) -> None:
    assert int(unusually_few(np.array(counts)).sum()) == few


def test_classes(tmp_path: Path) -> None:
    classes = [CAT, DOG, "Cat ", "owl", "emu"]
    write_split(tmp_path, "train", [*GOOD, [("Cat ", [5, 5, 20, 20])]], classes=classes)
    write_split(tmp_path, "val", [*GOOD, [("owl", [5, 5, 20, 20])]], classes=classes)
    assert [each.message for each in found(tmp_path, "similar-class-names")] == [
        "1 class name is there in several spellings ('cat' and 'Cat ')."
    ] * 2
    assert only(tmp_path, "rare-classes").message == "1 of 5 classes has only 1 to 9 objects (Cat : 1)."
    unused = only(tmp_path, "unused-classes")
    assert (unused.split, unused.message) == ("train, val", "1 of 5 classes has no objects in train, val (emu).")
    missing = only(tmp_path, "class-not-in-training")
    assert (missing.split, missing.message) == ("val", "1 class has objects in 'val', but none in 'train' (owl).")


def test_splits_without_a_common_class(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    write_split(tmp_path, "val", [[("owl", [5, 5, 20, 20])]], classes=["owl"])
    inspection = inspect_data(tmp_path, quick=True)
    assert inspection.exit_code == 1
    (one,) = [each for each in inspection.findings if each.severity == "error"]
    assert one.kind == "no-common-classes"
    assert one.message == "No class of 'val' (owl) is a class of 'train' (cat, dog)."


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([[], []], "The split 'train' has no objects in its 2 images."),
        ([[(CAT, [5, 5, 20, 20], True)]], "The split 'train' has only crowd regions, 1 in 1 image."),
    ],
)
def test_nothing_to_learn(tmp_path: Path, images: list[list[tuple[object, ...]]], message: str) -> None:
    write_split(tmp_path, "train", images)
    write_split(tmp_path, "val", GOOD)
    assert only(tmp_path, "nothing-to-learn").message == message
    assert inspect_data(tmp_path).exit_code == 1


def test_nothing_to_evaluate(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    write_split(tmp_path, "val", [[], []])
    inspection = inspect_data(tmp_path)
    assert [each.message for each in inspection.findings] == ["The split 'val' has no objects in its 2 images."]
    assert [each.kind for each in inspection.findings] == ["nothing-to-evaluate"]
    assert (inspection.exit_code, inspection.round_trips) == (0, {"train": 1.0, "val": None})


def test_splits_without_images(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    write_split(tmp_path, "val", [])
    one = only(tmp_path, "split-without-images")
    assert (
        one.message == f"{tmp_path}/annotations/instances_val.json lists no images: add some, or choose another file."
    )
    write_split(tmp_path, "train", [])
    assert only(tmp_path, "nothing-to-learn").severity == "error"
    assert inspect_data(tmp_path).exit_code == 1


def test_a_split_that_cannot_be_read(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, []])
    file = write_split(tmp_path, "val", GOOD) / "annotations/instances_val.json"
    contents = json.loads(file.read_text())
    contents["annotations"][3]["image_id"] = 77
    file.write_text(json.dumps(contents))
    inspection = inspect_data(tmp_path)
    assert inspection.exit_code == 2
    assert [entry.split for entry in inspection.statistics] == ["train"]
    error, note = inspection.findings
    assert (error.kind, error.split, note.kind) == ("unreadable", "val", "images-without-objects")
    assert error.files == (str(file),)
    assert error.message.startswith(f"{file}: 1 of 20 annotations belongs to an image that the file does not list: ")
    assert "some of it cannot be read (1 error, 0 warnings, 1 note" in inspection.verdict()


def test_nothing_can_be_read(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    (tmp_path / "train/train_3.jpg").write_bytes(b"no picture")
    inspection = inspect_data(tmp_path)
    assert (inspection.exit_code, inspection.statistics) == (2, ())
    assert inspection.findings[0].files == (f"{tmp_path}/train/train_3.jpg",)
    with pytest.raises(DataError, match="contains no readable data set"):
        inspect_data(tmp_path / "train")


def test_other_changes_of_the_readers(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "train", GOOD)
    file = folder / "annotations/instances_train.json"
    contents = json.loads(file.read_text())
    contents["images"][0]["file_name"] = "C:\\photos\\train_0.jpg"
    file.write_text(json.dumps(contents))
    one = only(tmp_path, "changed-in-reading")
    assert one.severity == "note"
    assert one.message.startswith("1 of 10 pictures is not in the folder that the name gives")
    assert one.files == ("C:\\photos\\train_0.jpg",)


def test_a_split_that_is_two_others_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "val", "trainval"):
        write_split(tmp_path, split, GOOD)
    one = only(tmp_path, "split-left-out", quick=True)
    assert one.message == "The split 'trainval' was not inspected, since 'train' and 'val' were."
    assert one.remedy == "Ask for it with --split trainval."
    asked = inspect_data(tmp_path, ["trainval"], quick=True)
    assert ([entry.split for entry in asked.statistics], asked.findings) == (["trainval"], ())


def test_a_file_that_does_not_say_its_split(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "train", [[], []])
    file = (folder / "annotations/instances_train.json").rename(folder / "train/labels.json")
    inspection = inspect_data(file, quick=True)
    assert [each.kind for each in inspection.findings if each.severity == "error"] == ["nothing-to-learn"]


def test_what_is_known_of_blood_cells(shared: Path) -> None:
    inspection = inspect_data(shared / "data/bccd", quick=True)
    counts: dict[str, dict[str, int]] = {}
    for each in inspection.findings:
        counts.setdefault(each.kind, {})[each.split] = each.count
    assert counts == {
        "boxes-without-area": {"train": 1, "val": 1},
        "near-duplicate-boxes": {"train": 4, "val": 2, "test": 1},
        "under-annotated": {"train": 8, "val": 4, "test": 3},
        "split-left-out": {"trainval": 1},
    }
    assert inspection.exit_code == 0


def test_no_false_alarms_about_missing_objects(shared: Path) -> None:
    for name in ("coco", "yolo_sample", "roboflow_sample"):
        inspection = inspect_data(shared / "data" / name, quick=True)
        assert inspection.exit_code == 0
        assert not {each.kind for each in inspection.findings} & {
            "under-annotated", "duplicate-boxes", "two-class-boxes", "thin-boxes", "boxes-off-picture",
            "boxes-over-the-edge", "same-picture-in-splits", "similar-class-names", "more-objects-than-queries",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "objects", "queries"),
    [
        ("detr-r50", 100, 150),
        ("anchor-detr-r50-c5", 901, 903),  # a multiple of 3
        ("dab-detr-r50-3patterns", 1000, 1050),
        ("dab-detr-r50-3patterns", 1050, 1053),
    ],
)
def test_the_remedy_is_a_number_that_the_variant_takes(variant: str, objects: int, queries: int) -> None:
    config = CATALOG[variant].config
    assert fitting_queries(config, objects) == queries
    replace(config, queries=queries)


def test_the_remedy_for_a_variant_with_patterns(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [*GOOD, [(CAT, [20 * number, 9, 15, 20]) for number in range(7)]])
    one = only(tmp_path, "more-objects-than-queries", quick=True, variant="anchor-detr-r50-c5", queries=6)
    assert one.remedy == "Train with more queries (--settings.queries 9), or cut the pictures into tiles."


def test_the_remedy_for_a_grid_of_anchors() -> None:
    grid = changed_config(CATALOG["dab-detr-r50"].config, {"centers": "grid", "queries": 289})
    assert fitting_queries(grid, 320) == 324  # 18 by 18


def test_notes_of_readers_become_findings_by_their_kinds() -> None:
    """Whatever their sentences are."""
    dataset = read_digits("train", images=2, size=64)
    notes = (
        *(
            Note(f"About {kind}.", kind, count=3, files=["a.txt"])
            for kind in ("no area", "outside", "repeated", "over the edge", "a pixel off")
        ),
        "1 box has no area.",
    )
    found = reader_notes(Split("train", replace(dataset, notes=notes)))
    assert [(each.kind, each.message, each.count, each.files) for each in found] == [
        ("boxes-without-area", "About no area.", 3, ("a.txt",)),
        ("boxes-off-picture", "About outside.", 3, ("a.txt",)),
        ("duplicate-boxes", "About repeated.", 3, ("a.txt",)),
        ("changed-in-reading", "About a pixel off.", 3, ("a.txt",)),
        ("changed-in-reading", "1 box has no area.", 1, ()),
    ]


def test_sizes_are_a_partition() -> None:
    """An area of a limit is medium here; COCO's evaluation counts it on both sides."""
    dataset = read_digits("train", images=1, size=64)
    areas = np.array([1023.9, 1024.0, 9216.0, 9216.1])
    boxes = np.tile([0.0, 0.0, 9.0, 9.0], (4, 1))
    changed = replace(
        dataset, areas=areas, boxes_xyxy=boxes, labels=np.zeros(4, np.int64), crowd=np.zeros(4, np.bool_),
        annotation_ids=np.arange(4), offsets=np.array([0, 4]),
    )  # fmt: skip
    figures = statistics_of(Split("train", changed))
    assert (figures.small, figures.medium, figures.large) == (1, 2, 1)
    assert AREAS == {"small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e10)}
