"""What describes a YOLO data set besides a complete YAML file: one without names or splits, patterns, and Darknet's `obj.data`."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.yolo_files import write_picture, write_text

from detrkit.data import DetectionDataset, available_splits, open_dataset
from detrkit.errors import DataError


def write_folders(folder: Path, description: str | None = None) -> Path:
    """`images/train` and `images/val` with labels of the classes 0, 2 and 3."""
    for split, text in (("train", "0 .5 .5 .2 .2\n2 .5 .5 .3 .3"), ("val", "3 .5 .5 .2 .2")):
        write_picture(folder / f"images/{split}/{split}.png")
        write_text(folder / f"labels/{split}/{split}.txt", text)
    if description is not None:
        write_text(folder / "data.yaml", description)
    return folder


def class_names(dataset: DetectionDataset) -> list[str]:
    return [category.name for category in dataset.categories]


def pictures(dataset: DetectionDataset) -> list[str]:
    return [Path(dataset.image_name(index)).name for index in range(len(dataset))]


class TestIncompleteYaml:
    @pytest.mark.parametrize("file", ["", "data.yaml"])
    def test_without_names_classes_are_called_by_their_numbers(self, tmp_path: Path, file: str) -> None:
        folder = write_folders(tmp_path, "train: images/train\nval: images/val\n")
        for split in ("train", "val"):
            dataset = open_dataset(folder / file, split)
            assert class_names(dataset) == ["0", "2", "3"]
            assert dataset.notes == (
                "data.yaml has no 'names', so its classes are called by their numbers: list them under 'names'.",
            )

    @pytest.mark.parametrize("file", ["", "data.yaml"])
    def test_names_may_lie_beside(self, tmp_path: Path, file: str) -> None:
        folder = write_folders(tmp_path, "train: images/train\n")
        write_text(folder / "classes.txt", "a\nb\nc\nd\n")
        dataset = open_dataset(folder / file, "train")
        assert class_names(dataset) == ["a", "b", "c", "d"]
        assert dataset.notes == ("data.yaml has no 'names', so they were read from classes.txt.",)
        assert available_splits(folder / file) == ["train"]

    @pytest.mark.parametrize("file", ["", "data.yaml"])
    def test_without_splits_those_of_the_folders_count(self, tmp_path: Path, file: str) -> None:
        folder = write_folders(tmp_path, "names: [a, b, c, d]\n")
        assert available_splits(folder / file) == ["train", "val"]
        dataset = open_dataset(folder / file, "val")
        assert (class_names(dataset), dataset.labels.tolist()) == (["a", "b", "c", "d"], [3])
        assert dataset.notes == ("data.yaml names no splits, so they are those of the folders.",)

    def test_a_class_that_such_a_file_does_not_name(self, tmp_path: Path) -> None:
        folder = write_folders(tmp_path, "names: [a, b]\n")
        with pytest.raises(DataError, match=r"has the class 2, which .*data\.yaml does not name \(0 a, 1 b\)"):
            open_dataset(folder, "train")

    def test_the_number_of_classes_is_enough(self, tmp_path: Path) -> None:
        dataset = open_dataset(write_folders(tmp_path, "nc: 5\n"), "train")
        assert class_names(dataset) == ["0", "1", "2", "3", "4"]
        assert dataset.notes == (
            "data.yaml names no splits, so they are those of the folders.",
            "data.yaml gives no names but the number of classes, so they are called '0' to '4'.",
        )

    def test_a_file_that_says_nothing_of_it(self, tmp_path: Path) -> None:
        dataset = open_dataset(write_folders(tmp_path, "path: .\n"), "train")
        assert class_names(dataset) == ["0", "2", "3"]
        assert dataset.notes == (
            f"{tmp_path}/data.yaml has no 'names', and there is no classes.txt, so its classes are called by their numbers.",
        )

    @pytest.mark.parametrize(
        ("description", "missing"),
        [
            ("names: [cat]\n", ", with the folder of its pictures; it has none of these splits"),
            ("train: nowhere\n", "; it has no 'names', and no pictures at train"),
        ],
    )
    def test_what_is_missing_is_said(self, tmp_path: Path, description: str, missing: str) -> None:
        write_picture(tmp_path / "pictures/a.png")
        write_text(tmp_path / "data.yaml", description)
        needed = f"it needs 'names' and at least one of 'train', 'val' and 'test'{missing}."
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path, "train")
        assert str(caught.value) == (
            f"{tmp_path} contains no readable data set: data.yaml does not describe one: {needed}"
        )
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path / "data.yaml", "train")
        assert str(caught.value) == f"{tmp_path}/data.yaml does not describe a YOLO data set: {needed}"


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """Pictures a0, a1, b0 and b1 in one folder."""
    for name in ("a0", "a1", "b0", "b1"):
        write_picture(tmp_path / f"images/{name}.png")
        write_text(tmp_path / f"labels/{name}.txt", "0 .5 .5 .2 .2")
    return tmp_path


class TestPatterns:
    @pytest.mark.parametrize(
        ("written", "found"),
        [
            ("images/a*.png", ["a0.png", "a1.png"]),
            ("images/?0.png", ["a0.png", "b0.png"]),
            ("images/[b]*", ["b0.png", "b1.png"]),
            ("[images/a*.png, images/b1*]", ["a0.png", "a1.png", "b1.png"]),
            ("imag*", ["a0.png", "a1.png", "b0.png", "b1.png"]),
            ("'**/*.png'", ["a0.png", "a1.png", "b0.png", "b1.png"]),
            ("list*.txt", ["b0.png"]),
        ],
    )
    def test_pictures_that_fit(self, letters: Path, written: str, found: list[str]) -> None:
        write_text(letters / "list1.txt", "images/b0.png\n")
        write_text(letters / "data.yaml", f"names: [cat]\ntrain: {written}\n")
        dataset = open_dataset(letters, "train")
        assert pictures(dataset) == found
        assert dataset.boxes_xyxy.tolist() == [[16, 8, 24, 12]] * len(found)
        assert dataset.notes == ()

    def test_folders_that_fit(self, tmp_path: Path) -> None:
        for part in ("x", "y"):
            for split in ("train", "val"):
                write_picture(tmp_path / f"{part}/{split}/images/{part}.png")
                write_text(tmp_path / f"{part}/{split}/labels/{part}.txt", "0 .5 .5 .2 .2")
        write_text(
            tmp_path / "data.yaml", "names: [cat]\ntrain: '*/train/images'\nval: '**/val/images'\nmini: 'x/*/images'\n"
        )
        assert available_splits(tmp_path) == ["train", "val", "mini"]
        for split in ("train", "val"):
            dataset = open_dataset(tmp_path, split)
            assert [dataset.image_name(index) for index in range(2)] == [
                f"{part}/{split}/images/{part}.png" for part in "xy"
            ]

    def test_a_pattern_from_another_computer(self, letters: Path) -> None:
        write_text(letters / "data.yaml", "names: [cat]\npath: /home/me/set\ntrain: images/a*.png\n")
        dataset = open_dataset(letters, "train")
        assert pictures(dataset) == ["a0.png", "a1.png"]
        assert dataset.notes == (
            f"data.yaml: 'train' is 'images/a*.png' below '/home/me/set', which does not exist here; {letters}/images/a0.png, "
            f"{letters}/images/a1.png were read.",
        )

    @pytest.mark.parametrize("written", ["images/c*.png", "/home/me/images/*.png"])
    def test_a_pattern_that_nothing_fits(self, letters: Path, written: str) -> None:
        """All pictures of `images` may be those of other splits."""
        write_text(letters / "data.yaml", f"names: [cat]\ntrain: {written}\n")
        with pytest.raises(
            DataError,
            match=rf"data\.yaml: 'train' is '{written.replace('*', '[*]')}', but no picture, folder or text file fits /",
        ):
            open_dataset(letters, "train")
        write_text(letters / "data.yaml", f"names: [cat]\ntrain: {written}\nval: images/a*.png")
        assert available_splits(letters) == ["val"]

    def test_a_pattern_without_quotes(self, letters: Path) -> None:
        for written in ("*/a0.png", "**/a*.png", "*"):
            write_text(letters / "data.yaml", f"names: [cat]\ntrain: {written}\n")
            with pytest.raises(
                DataError,
                match=r"data\.yaml cannot be parsed as YAML \(.*\): put places that begin with \* into quotes\.$",
            ):
                open_dataset(letters, "train")

    def test_signs_in_names_of_folders(self, tmp_path: Path) -> None:
        folder = tmp_path / "set [1]"
        write_picture(folder / "images/[x]/a.png")
        write_text(folder / "labels/[x]/a.txt", "0 .5 .5 .2 .2")
        for written in ("images/[x]", "images/*/a.png"):
            write_text(folder / "data.yaml", f"names: [cat]\ntrain: '{written}'\n")
            assert pictures(open_dataset(folder, "train")) == ["a.png"]


@pytest.fixture
def darknet(tmp_path: Path) -> Path:
    """As CVAT exports it: paths start with `data`, whatever the folder is called."""
    for split, line in (("train", "1 .5 .5 .2 .2"), ("valid", "0 .5 .5 .2 .4")):
        write_picture(tmp_path / f"obj_{split}_data/{split}.png")
        write_text(tmp_path / f"obj_{split}_data/{split}.txt", line)
        write_text(tmp_path / f"{split}.txt", f"data/obj_{split}_data/{split}.png\n")
    write_text(tmp_path / "obj.names", "cat\ndog\n")
    write_text(
        tmp_path / "obj.data",
        "classes = 2\ntrain = data/train.txt\nvalid=data/valid.txt\nnames = data/obj.names  # two\nbackup = backup/\n",
    )
    return tmp_path


class TestDarknet:
    @pytest.mark.parametrize("file", ["", "obj.data"])
    def test_an_export(self, darknet: Path, file: str) -> None:
        assert available_splits(darknet / file) == ["train", "val"]
        train, val = open_dataset(darknet / file, "train"), open_dataset(darknet / file, "val")
        assert class_names(train) == class_names(val) == ["cat", "dog"]
        assert (train.boxes_xyxy.tolist(), train.labels.tolist()) == ([[16, 8, 24, 12]], [1])
        assert (val.boxes_xyxy.tolist(), val.labels.tolist()) == ([[16, 6, 24, 14]], [0])
        assert val.notes == (
            f"obj.data: 'valid' is 'data/valid.txt', which does not exist here; {darknet}/valid.txt was read.",
            "1 picture in valid.txt is not where it says and was found beside it (the first: data/obj_valid_data/valid.png).",
        )

    def test_below_data_and_where_it_says(self, darknet: Path, tmp_path: Path) -> None:
        inner = tmp_path / "project/data"
        inner.mkdir(parents=True)
        for entry in list(darknet.iterdir()):
            if entry.name != "project":
                entry.rename(inner / entry.name)
        write_text(inner / "obj.data", "classes=2\ntrain=train.txt\nnames=obj.names\n")
        write_text(inner / "train.txt", "obj_train_data/train.png")
        dataset = open_dataset(tmp_path / "project", "train")
        assert (class_names(dataset), dataset.labels.tolist(), dataset.notes) == (["cat", "dog"], [1], ())

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("classes = 3\ntrain = train.txt\nnames = obj.names", "'classes' is 3, but obj.names has 2 names: make the two agree."),
            ("train = train.txt\nnames = other.names",
             "'names' is other.names, which does not exist: put the file with the class names there, one in each line."),
        ],
    )  # fmt: skip
    def test_names_that_do_not_fit(self, darknet: Path, text: str, sentence: str) -> None:
        write_text(darknet / "obj.data", text)
        with pytest.raises(DataError) as caught:
            open_dataset(darknet, "train")
        assert str(caught.value) == f"{darknet}/obj.data: {sentence}"

    def test_empty_lines_between_names_are_counted(self, darknet: Path) -> None:
        write_text(darknet / "obj.names", "cat\n\ndog\n\nowl")
        with pytest.raises(DataError) as caught:
            open_dataset(darknet, "train")
        assert str(caught.value) == (
            f"{darknet}/obj.names has an empty line or no names: write one class name in each line (line 2, and 1 more)."
        )

    def test_without_names_the_number_of_classes_counts(self, darknet: Path) -> None:
        write_text(darknet / "obj.data", "classes = 2\ntrain = train.txt\n")
        dataset = open_dataset(darknet, "train")
        assert class_names(dataset) == ["0", "1"]
        assert dataset.notes[0] == "obj.data gives no names but the number of classes, so they are called '0' to '1'."

    def test_files_of_other_programs(self, darknet: Path) -> None:
        write_text(darknet / "obj.data", "train = train.txt\n")
        with pytest.raises(DataError, match=r"contains no readable data set: looked for .*, data\.yaml, obj\.data, "):
            open_dataset(darknet, "train")
        with pytest.raises(DataError) as caught:
            open_dataset(darknet / "obj.data", "train")
        assert str(caught.value) == (
            f"{darknet}/obj.data does not describe a YOLO data set: it needs 'names = …' and at least one of 'train', 'valid' and 'test'."
        )

    def test_several_files(self, darknet: Path) -> None:
        for name in ("a.data", "b.data"):
            write_text(darknet / name, "train = train.txt\nnames = obj.names\n")
        assert available_splits(darknet) == ["train", "val"]
        (darknet / "obj.data").unlink()
        with pytest.raises(DataError) as caught:
            open_dataset(darknet, "train")
        assert str(caught.value) == (
            f"{darknet} has several files that describe a data set: a.data and b.data; give the one you mean instead of the folder."
        )
        assert available_splits(darknet / "a.data") == ["train"]
