"""Where users keep the pictures and labels of YOLO data sets, and what is said when they are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.yolo_files import write_picture, write_text, write_yolo_set

from detrkit.data import NoImagesError, available_splits, open_dataset, yolo_layout
from detrkit.data.yolo import read_yolo
from detrkit.errors import DataError

LINE = "0 0.5 0.5 0.25 0.5\n"


def write_pair(folder: Path, picture: str, label: str, red: int = 7) -> None:
    write_picture(folder / picture, red=red)
    write_text(folder / label, LINE)


def assert_read(data: Path, split: str, red: int = 7) -> tuple[str, ...]:
    """The split has one picture of this colour with one box; returns the notes."""
    dataset = open_dataset(data, split)
    assert len(dataset) == 1
    assert dataset.boxes_xyxy.tolist() == [[15, 5, 25, 15]]
    assert dataset.image(0).getpixel((0, 0)) == (red, 0, 0)
    return dataset.notes


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("images/train/a.png", "labels/train/a.txt"),
        ("train/images/a.png", "train/labels/a.txt"),
        ("Images/train/a.PNG", "Labels/train/a.TXT"),
        ("images/train/a.png", "images/train/a.txt"),
        ("train/a.png", "train/a.txt"),
        ("train/a.png", "train/labels/a.txt"),
        ("train/a.png", "labels/train/a.txt"),
        ("train/a.png", "labels/a.txt"),
        ("train/pictures/a.png", "train/labels/a.txt"),
        ("images/train/deep/er/a.png", "labels/train/deep/er/a.txt"),
        ("images/set/images/train/a.png", "images/set/labels/train/a.txt"),
        ("train/images/a.rf.01.png", "train/labels/a.rf.01.txt"),
        ("train/images/Ä.png", "train/labels/ä.txt"),
        ("train/images/a\u0308.png", "train/labels/\u00e4.txt"),
    ],
)
def test_labels_are_found(tmp_path: Path, picture: str, label: str) -> None:
    write_pair(tmp_path, picture, label)
    write_text(tmp_path / "data.yaml", f"names: [cat]\ntrain: {Path(picture).parent.as_posix()}\n")
    notes = assert_read(tmp_path, "train")
    spelled_alike = Path(picture).stem == Path(label).stem
    name = Path(label).name
    assert notes == (
        () if spelled_alike else (f"1 label file differs from its picture in case or accents (the first: {name}).",)
    )


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".webp", ".tif", ".TIFF", ".gif", ".ppm"])
def test_usual_picture_files(tmp_path: Path, suffix: str) -> None:
    write_pair(tmp_path, f"images/train/a{suffix}", "labels/train/a.txt")
    write_text(tmp_path / "images/train/.hidden.png", "not a picture")
    write_text(tmp_path / "data.yml", "names: [cat]\ntrain: images/train\n")
    assert len(open_dataset(tmp_path, "train").labels) == 1


@pytest.mark.parametrize(
    "description",
    [
        "train: images/train",
        "train: ./images/train/",
        "train: images\\train",
        "path: .\ntrain: images/train",
        "path: ./\ntrain: images/train",
        "path: {folder}\ntrain: images/train",
        "path: ../{name}\ntrain: images/train",
        "train: {folder}/images/train",
        "train:\n  - images/train",
        "train: [images/train, images/train]",
        "train: list.txt",
        "path:\ntrain: images/train\nval:  # optional\ntest: ''",
    ],
)
@pytest.mark.parametrize("data", ["", "data.yaml"])
def test_places_as_they_are_written(tmp_path: Path, description: str, data: str) -> None:
    write_pair(tmp_path, "images/train/a.png", "labels/train/a.txt")
    write_text(tmp_path / "list.txt", "./images/train/a.png\n\n")
    text = description.format(folder=tmp_path, name=tmp_path.name)
    write_text(tmp_path / "data.yaml", f"names: [cat]\n{text}\n")
    assert available_splits(tmp_path / data) == ["train"]
    assert assert_read(tmp_path / data, "train") == ()


def test_places_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pair(tmp_path, "sets/signs/images/train/a.png", "sets/signs/labels/train/a.txt")
    write_text(tmp_path / "configs/signs.yaml", "names: [cat]\npath: sets/signs\ntrain: images/train\n")
    monkeypatch.chdir(tmp_path)
    assert assert_read(Path("configs/signs.yaml"), "train") == ()
    write_text(tmp_path / "configs/signs.yaml", "names: [cat]\ntrain: sets/signs/images/train\n")
    assert assert_read(Path("configs"), "train") == ()


@pytest.mark.parametrize(
    ("description", "written"),
    [
        ("train: ../train/images", "'../train/images'"),
        ("train: ../../x/train/images", "'../../x/train/images'"),
        ("train: /content/drive/signs/train/images", "'/content/drive/signs/train/images'"),
        ("train: C:\\Users\\me\\signs\\train\\images", "'C:\\Users\\me\\signs\\train\\images'"),
        ("path: /home/somebody/signs\ntrain: train/images", "'train/images' below '/home/somebody/signs'"),
        ("path: D:\\signs\ntrain: train/images", "'train/images' below 'D:\\signs'"),
        ("path: ../datasets/signs\ntrain: ../train/images", "'../train/images' below '../datasets/signs'"),
    ],
)
def test_places_of_another_computer_are_found_beside_the_yaml_file(
    tmp_path: Path, description: str, written: str
) -> None:
    write_pair(tmp_path, "signs/train/images/a.png", "signs/train/labels/a.txt")
    write_text(tmp_path / "signs/data.yaml", f"names: [cat]\n{description}\n")
    assert assert_read(tmp_path / "signs", "train") == (
        f"data.yaml: 'train' is {written}, which does not exist here; {tmp_path}/signs/train/images was read.",
    )


def test_splits_of_all_spellings(tmp_path: Path) -> None:
    for red, split in enumerate(("train", "valid", "test")):
        write_pair(tmp_path, f"{split}/images/a.png", f"{split}/labels/a.txt", red)
    places = "train: train/images\nvalid: valid/images\ntest: test/images"
    write_text(tmp_path / "data.yaml", f"names: [cat]\n{places}\n")
    assert available_splits(tmp_path) == ["train", "val", "test"]
    for red, split in enumerate(("train", "val", "test")):
        assert_read(tmp_path, split, red)
    with pytest.raises(DataError, match=r"has no split 'trian': did you mean 'train'\?"):
        open_dataset(tmp_path, "trian")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images/{}", "labels/{}"), ("{}/images", "{}/labels"), ("Images/{}", "Labels/{}"), ("{}/Images", "{}/Labels")],
)
@pytest.mark.parametrize(
    "classes", ["classes.txt", "labels/classes.txt", "labels/train/classes.txt", "train/labels/classes.txt"]
)
def test_folders_without_yaml(tmp_path: Path, images: str, labels: str, classes: str) -> None:
    for red, split in enumerate(("train", "validation")):
        write_pair(tmp_path, f"{images.format(split)}/a.png", f"{labels.format(split)}/a.txt", red)
    write_text(tmp_path / classes, "cat\ndog\n")
    assert available_splits(tmp_path) == ["train", "val"]
    for red, split in enumerate(("train", "val")):
        assert assert_read(tmp_path, split, red) == ()
        assert [category.name for category in open_dataset(tmp_path, split).categories] == ["cat", "dog"]


def test_images_and_labels_without_splits_are_for_training(tmp_path: Path) -> None:
    write_pair(tmp_path, "images/a.png", "labels/a.txt")
    write_text(tmp_path / "classes.txt", "cat\n")  # as Label Studio exports
    write_text(tmp_path / "notes.json", "{}")
    assert available_splits(tmp_path) == ["train"]
    assert assert_read(tmp_path, "train") == ()


def test_masks_are_no_labels(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/train/a.png")
    write_picture(tmp_path / "labels/train/a.png")
    with pytest.raises(DataError, match="contains no readable data set"):
        open_dataset(tmp_path, "train")


def test_a_split_of_several_folders(tmp_path: Path) -> None:
    for red, part in enumerate(("b", "a")):
        write_pair(tmp_path, f"{part}/images/same.png", f"{part}/labels/same.txt", red)
    write_text(tmp_path / "data.yaml", "names: [cat]\ntrain: [b/images, a/images]\n")
    dataset = open_dataset(tmp_path, "train")
    assert [dataset.image_name(index) for index in range(2)] == ["a/images/same.png", "b/images/same.png"]
    assert [dataset.image(index).getpixel((0, 0))[0] for index in range(2)] == [1, 0]
    assert dataset.offsets.tolist() == [0, 1, 2]


def test_lists_of_pictures(tmp_path: Path) -> None:
    for number in range(4):
        write_pair(tmp_path, f"images/{number}.png", f"labels/{number}.txt", number)
    lines = [
        "./images/3.png",
        "images/1.png",
        f"{tmp_path}/images/2.png",
        "/mnt/other/images/0.png",
        "images/1.png",
        "",
    ]
    write_text(tmp_path / "lists/{train}.txt", "\r\n".join(["../images/3.png", *lines[1:]]))
    write_text(tmp_path / "data.yaml", "names: [cat]\ntrain: 'lists/{train}.txt'\n")
    dataset = open_dataset(tmp_path, "train")
    assert [dataset.image(index).getpixel((0, 0))[0] for index in range(4)] == [0, 1, 2, 3]
    assert dataset.notes == (
        "1 picture in {train}.txt is not where it says and was found beside it (the first: /mnt/other/images/0.png).",
        "1 line of {train}.txt lists a picture again, which was read once (the first: 1.png, line 5).",
    )
    write_text(tmp_path / "lists/{train}.txt", "images/1.png\nimages/7.png\nimages/8.png\n")
    message = r"\{train\}\.txt, line 2 lists images/7\.png, which exists below none of .*lists, .*: correct the list, or put the picture "
    with pytest.raises(DataError, match=message + r"there\. \(2 of the listed pictures are missing\.\)"):
        open_dataset(tmp_path, "train")


def test_labels_of_other_splits_are_not_left_over(tmp_path: Path) -> None:
    for number in range(4):
        write_pair(tmp_path, f"images/{number}.png", f"labels/{number}.txt", number)
    write_text(tmp_path / "train.txt", "./images/0.png\n./images/1.png\n")
    write_text(tmp_path / "data.yaml", "names: [cat]\ntrain: train.txt\n")
    assert open_dataset(tmp_path, "train").notes == ()


def test_pictures_without_labels_and_labels_without_pictures(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE, "b": "", "c": LINE, "d": LINE})
    for name in ("labels/train/c.txt", "labels/train/d.txt", "images/train/a.png"):
        (tmp_path / name).unlink()
    write_text(tmp_path / "labels/train/classes.txt", "cat\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.offsets.tolist() == [0, 0, 0, 0]
    assert dataset.notes == (
        "2 of 3 pictures have no label file and count as pictures without objects (the first: c.png).",
        f"1 label file has no picture and was left out (the first: {tmp_path}/labels/train/a.txt).",
    )


def test_no_labels_at_all(tmp_path: Path) -> None:
    write_picture(tmp_path / "images/train/a.png")
    write_text(tmp_path / "data.yaml", "names: [cat]\ntrain: images/train\n")
    message = (
        r"No picture of 'train' in .*data\.yaml has a label file: looked for a\.txt and the others in .*/labels/train, .*/images/train, "
        r".*; put the labels into one of them\."
    )
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "train")


def test_places_that_are_nowhere(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE}, "names: [cat, dog]\nval: ../valid/images")
    message = r"data\.yaml: 'val' is '../valid/images', but there is neither a folder nor a text file at .*valid/images.*: correct it, put"
    assert available_splits(tmp_path) == ["train"]
    for opens, split in ((open_dataset, "val"), (open_dataset, "valid"), (read_yolo, "validation")):
        with pytest.raises(NoImagesError, match=message + r" the pictures there, or remove 'val'\."):
            opens(tmp_path, split)
    assert_read(tmp_path, "train", red=0)
    with pytest.raises(DataError, match=r"has no split 'test', only 'train': ask for that one"):
        open_dataset(tmp_path, "test")


def test_an_empty_list_of_pictures_is_no_split(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE}, "names: [cat, dog]\nval: val.txt")
    write_text(tmp_path / "val.txt", "\n\n")
    assert available_splits(tmp_path) == ["train"]
    with pytest.raises(NoImagesError, match=r"'val' is val\.txt, where no pictures are"):
        open_dataset(tmp_path, "val")


def test_one_of_several_places_that_is_nowhere_is_no_empty_split(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE}, "names: [cat, dog]\nval: [images/train, nowhere]")
    assert available_splits(tmp_path) == ["train", "val"]
    with pytest.raises(DataError, match="'val' is 'nowhere', but there is neither") as caught:
        open_dataset(tmp_path, "val")
    assert not isinstance(caught.value, NoImagesError)


def test_splits_of_any_name(tmp_path: Path) -> None:
    """A key is a split if pictures are where it leads; texts about the data set and folders of several splits are none."""
    more = "author: me\nlicense: LICENSE.txt\nroot: .\nimages: images\ntask: detect\nempty: images/empty\ndownload: images/dev"
    write_yolo_set(tmp_path, {"a": LINE}, f"names: [cat, dog]\n{more}\ndev: images/dev\nlisted: listed.txt")
    write_text(tmp_path / "LICENSE.txt", "Do with it what you want.\n")
    write_text(tmp_path / "listed.txt", "\n./images/dev/b.png\n")
    write_picture(tmp_path / "images/dev/b.png", red=9)
    write_text(tmp_path / "labels/dev/b.txt", LINE)
    (tmp_path / "images/empty").mkdir()
    assert available_splits(tmp_path) == ["train", "dev", "listed"]
    for split in ("dev", "listed"):
        dataset = open_dataset(tmp_path / "data.yaml", split)
        assert dataset.image(0).getpixel((0, 0)) == (9, 0, 0)
        assert [category.name for category in dataset.categories] == ["cat", "dog"]


def test_each_folder_is_looked_into_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        write_picture(tmp_path / f"images/{number}/a.png")
        write_text(tmp_path / f"labels/{number}/a.txt", LINE)
    write_text(tmp_path / "data.yaml", "names: [cat, dog]\ntrain: images")
    split = yolo_layout.find_splits(tmp_path)["train"]
    looked: list[Path] = []

    def subfolder(folder: Path, name: str) -> Path:
        looked.append(folder)
        return folder / name

    monkeypatch.setattr(yolo_layout, "subfolder", subfolder)
    assert len([file for file in yolo_layout.pair_pictures(split).labels if file]) == 6
    assert len(looked) == len(set(looked)) == 8


def test_an_empty_folder_is_no_split_where_others_have_pictures(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE}, "names: [cat, dog]\nval: valid/images")
    (tmp_path / "valid/images").mkdir(parents=True)
    assert available_splits(tmp_path) == ["train"]
    message = (
        r"data\.yaml: 'val' is valid/images, where no pictures are: put pictures \(.*\) there, or correct the folder\.$"
    )
    for opens in (open_dataset, read_yolo):
        with pytest.raises(NoImagesError, match=message):
            opens(tmp_path, "val")
    (tmp_path / "images/train/a.png").unlink()
    with pytest.raises(DataError, match=r"data\.yaml: 'train' is images/train, where no pictures are: put pictures \("):
        open_dataset(tmp_path, "train")


def test_several_yaml_files(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE})
    write_text(tmp_path / "args.yaml", "task: detect\ndata: x\n")
    write_text(tmp_path / "broken.yaml", "a: [")
    write_text(tmp_path / "more.yaml", "train: images/train\nnames: [cat, dog]\n")
    assert open_dataset(tmp_path, "train").notes == ()  # `more` says the same
    write_text(tmp_path / "more.yaml", "train: images/train\nnames: [owl]\n")
    note = "data.yaml was read; more.yaml beside it would describe the data set differently."
    assert open_dataset(tmp_path, "train").notes == (note,)
    (tmp_path / "data.yaml").rename(tmp_path / "signs.yaml")
    message = r"several YAML files that describe a data set: more\.yaml and signs\.yaml; give the one you mean instead of the folder"
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, "train")
    assert [category.name for category in open_dataset(tmp_path / "more.yaml", "train").categories] == ["owl"]


def test_damaged_pictures_are_counted(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE, "b": LINE, "c": LINE})
    for name in ("a", "b"):
        write_text(tmp_path / f"images/train/{name}.png", "no picture")
    with pytest.raises(DataError, match=r"a\.png is not a readable image .* \(2 of the 3 images cannot be used\.\)"):
        open_dataset(tmp_path, "train")


def test_a_link_that_leads_back(tmp_path: Path) -> None:
    write_yolo_set(tmp_path, {"a": LINE})
    (tmp_path / "images/train/again").symlink_to(tmp_path / "images")
    assert len(open_dataset(tmp_path, "train")) == 1
