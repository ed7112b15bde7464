"""Pictures that are damaged, blank, cut off or there twice, and those that only look like it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from inspected_data import GOOD, HEIGHT, WIDTH, found, only, opened, photo, write_split
from PIL import Image

from detrkit.data import read_digits
from detrkit.data.images import read_image, read_small_grey
from detrkit.data.inspection import KINDS, Split, files_in_two_splits, look_at_pictures
from detrkit.errors import DataError
from detrkit.evaluation import inspect_data

ROTATED = 6  # EXIF orientation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_split(tmp_path, "train", GOOD)
    return write_split(tmp_path, "val", GOOD)


def damage(file: Path) -> None:
    """Bytes in the middle that no decoder accepts; beginning and end stay."""
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(content[:middle] + b"\xff\xc4\x00\x10" + content[middle + 4 :])


def test_damage_inside_a_jpeg_file(data: Path) -> None:
    damage(data / "train/train_4.jpg")
    damage(data / "train/train_7.jpg")
    inspection = inspect_data(data)
    (one,) = inspection.findings
    assert (inspection.exit_code, one.kind, one.severity, one.count) == (1, "damaged-pictures", "error", 2)
    assert one.files == ("train_4.jpg", "train_7.jpg")
    assert one.message.startswith(
        f"2 of 10 pictures cannot be decoded: {data}/train/train_4.jpg is damaged or cut off (broken data stream"
    )
    assert inspect_data(data, quick=True).exit_code == 0  # it does not look


def test_a_file_that_goes_while_it_is_inspected(data: Path) -> None:
    split = opened(data)
    (data / "train/train_2.jpg").unlink()
    assert look_at_pictures(split).problems == {
        2: f"{data}/train/train_2.jpg does not exist: correct its name or put the file there."
    }


@pytest.mark.parametrize("form", ["jpg", "png"])
def test_blank_pictures(data: Path, form: str) -> None:
    for number, colour in ((1, (0, 0, 0)), (2, (9, 9, 60)), (3, (0, 0, 0))):
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(
            data / f"train/train_{number}.jpg", format={"jpg": "JPEG"}.get(form, "PNG")
        )
    inspection = inspect_data(data)
    (one,) = inspection.findings  # blank pictures are no copies of each other
    assert (one.kind, one.files) == ("blank-pictures", ("train_1.jpg", "train_2.jpg", "train_3.jpg"))
    assert one.message == "3 of 10 pictures have one colour everywhere (train_1.jpg, train_2.jpg, train_3.jpg)."


def test_dark_pictures_are_neither_blank_nor_copies(data: Path) -> None:
    for number in range(10):
        dark = np.random.default_rng(number).normal(6, 2, (HEIGHT, WIDTH)).clip(0, 255).astype(np.uint8)
        Image.fromarray(dark).save(data / f"train/train_{number}.jpg")
    assert inspect_data(data).findings == ()
    (data / "train/train_9.jpg").write_bytes((data / "train/train_0.jpg").read_bytes())
    assert only(data, "same-picture-twice").message == (
        "1 of 10 pictures of 'train' repeats another of them (train_9.jpg is train_0.jpg)."
    )


def test_pictures_that_end_in_grey(data: Path) -> None:
    file = data / "train/train_5.jpg"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3] + b"\xff\xd9")
    bars = photo("bars")
    for top in (0, HEIGHT - 20):
        bars.paste((128, 128, 128), (0, top, WIDTH, top + 20))
    bars.save(data / "train/train_6.jpg", quality=95)
    one = only(data, "cut-off-pictures")
    assert (one.severity, one.message) == (
        "warning",
        "1 of 10 pictures ends in plain grey, where data are missing or padding was added (train_5.jpg).",
    )


def test_long_pictures(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD, size=(400, 99))
    write_split(tmp_path, "val", GOOD, size=(400, 100))
    one = only(tmp_path, "long-pictures", quick=True)
    assert (one.split, one.severity) == ("train", "note")
    assert one.message == (
        "10 of 10 pictures are more than four times as long as wide (train_0.jpg, train_1.jpg, train_2.jpg and 7 more)."
    )


COPIES: dict[str, Callable[[Image.Image, Path], None]] = {
    "equal": lambda picture, file: picture.save(file, quality=90),
    "much compressed": lambda picture, file: picture.save(file, quality=25),
    "png": lambda picture, file: picture.save(file, format="PNG"),
    "half": lambda picture, file: picture.resize((WIDTH // 2, HEIGHT // 2)).save(file, quality=80),
    "double": lambda picture, file: picture.resize((WIDTH * 2, HEIGHT * 2)).save(file, quality=80),
    "grey": lambda picture, file: picture.convert("L").save(file, quality=80),
}
OTHERS: dict[str, Callable[[Image.Image, Path], None]] = {
    "mirrored": lambda picture, file: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file),
    "an object came": lambda picture, file: with_object(picture).save(file, quality=90),
    "another shape": lambda picture, file: picture.resize((WIDTH, HEIGHT // 2)).save(file),
    "another half": lambda picture, file: picture.crop((0, 0, WIDTH // 2, HEIGHT // 2)).save(file),
}


def with_object(picture: Image.Image) -> Image.Image:
    changed = picture.copy()
    changed.paste((255, 255, 255), (70, 50, 84, 64))
    return changed


def put(data: Path, change: Callable[[Image.Image, Path], None]) -> None:
    """Puts a changed `train_3` in the place of `val_8`."""
    file = data / "val/val_8.jpg"
    change(photo("train_3.jpg"), file)
    annotations = data / "annotations/instances_val.json"
    contents = json.loads(annotations.read_text())
    contents["images"][8]["width"], contents["images"][8]["height"] = Image.open(file).size
    contents["annotations"] = [entry for entry in contents["annotations"] if entry["image_id"] != 9]
    annotations.write_text(json.dumps(contents))


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_picture_in_two_splits(data: Path, change: Callable[[Image.Image, Path], None]) -> None:
    put(data, change)
    one = only(data, "same-picture-in-splits")
    assert (one.severity, one.split, one.count) == ("warning", "train, val", 1)
    assert one.message == "1 picture of 'val' is also in 'train' (val_8.jpg is train_3.jpg)."
    assert one.files == ("train_3.jpg", "val_8.jpg")


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_pictures_that_are_not_the_same(data: Path, change: Callable[[Image.Image, Path], None]) -> None:
    put(data, change)
    assert found(data, "same-picture-in-splits") == []


def test_a_turned_picture_is_the_same_as_the_upright_one(data: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    turned = photo("train_3.jpg").transpose(Image.Transpose.ROTATE_90)
    put(data, lambda _, file: turned.save(file, exif=exif, quality=90))
    contents = json.loads((data / "annotations/instances_val.json").read_text())
    contents["images"][8].update(width=WIDTH, height=HEIGHT)
    (data / "annotations/instances_val.json").write_text(json.dumps(contents))
    assert only(data, "same-picture-in-splits").files == ("train_3.jpg", "val_8.jpg")


def test_the_same_file_in_two_splits(data: Path) -> None:
    """Without decoding, files are the same by their path, or by name and content."""
    splits = [opened(data, "train"), opened(data, "val")]
    assert files_in_two_splits(splits) == []
    (data / "val/val_0.jpg").rename(data / "val/train_0.jpg")
    (data / "val/train_0.jpg").write_bytes((data / "train/train_0.jpg").read_bytes())
    annotations = data / "annotations/instances_val.json"
    annotations.write_text(annotations.read_text().replace("val_0.jpg", "train_0.jpg"))
    one = only(data, "same-picture-in-splits", quick=True)
    assert one.message == "1 picture of 'val' is also in 'train' (train_0.jpg)."
    Image.open(data / "train/train_1.jpg").save(data / "val/train_0.jpg")
    assert found(data, "same-picture-in-splits", quick=True) == []
    train = splits[0]
    (all_of_them,) = files_in_two_splits([train, Split("val", train.dataset)])
    assert all_of_them.count == 10


def test_copies_in_real_photos(shared: Path) -> None:
    """The sample of a Roboflow export has the same photo under two names; chess boards that differ by a piece are no copies."""
    counts = {(each.split, each.count) for each in found(shared / "data/yolo_sample", "same-picture-twice")}
    assert counts == {("train", 1), ("val", 2)}
    for name in ("roboflow_sample", "coco"):
        kinds = {each.kind for each in inspect_data(shared / "data" / name).findings}
        assert not kinds & {"same-picture-twice", "same-picture-in-splits", "blank-pictures", "cut-off-pictures"}


def test_real_photos_compressed_again(shared: Path, tmp_path: Path) -> None:
    folder = write_split(tmp_path, "train", [GOOD[0]] * 12)
    write_split(tmp_path, "val", [GOOD[0]] * 12)
    photos = sorted((shared / "data/coco/train").glob("*.jpg"))[:12]
    for split, side, quality in (("train", 1, 90), ("val", 2, 60)):
        file = folder / f"annotations/instances_{split}.json"
        contents = json.loads(file.read_text())
        for number, source in enumerate(photos):
            with Image.open(source) as picture:
                size = (picture.width // side, picture.height // side)
                picture.convert("RGB").resize(size).save(folder / split / f"{split}_{number}.jpg", quality=quality)
            contents["images"][number].update(width=size[0], height=size[1])
        file.write_text(json.dumps(contents))
    assert only(tmp_path, "same-picture-in-splits").count >= 10


def test_pictures_in_memory() -> None:
    digits = read_digits("train", images=6, size=64)
    look = look_at_pictures(Split("train", digits, for_training=True))
    assert look.problems == {}
    assert not look.blank.any()
    assert (look.thumbnails[0] > 0).all()
    assert len(set(look.digests.tolist())) == 6


def test_small_grey_pictures(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    photo("a", (640, 400)).save(file, quality=95)
    whole, small = read_small_grey(file, None), read_small_grey(file, 100)
    assert (whole.size, small.size, small.mode) == ((640, 400), (160, 100), "L")
    means = [np.asarray(each.resize((8, 5), Image.Resampling.BOX), dtype=float) for each in (whole, small)]
    assert means[0] == pytest.approx(
        np.asarray(read_image(file).convert("L").resize((8, 5), Image.Resampling.BOX)), abs=2
    )
    assert means[1] == pytest.approx(means[0], abs=2)
    sixteen = tmp_path / "b.png"
    Image.fromarray(np.full((20, 30), 32896, dtype=np.uint16)).save(sixteen)
    assert read_small_grey(sixteen, 8).getextrema() == (128, 128)
    with pytest.raises(DataError, match=r"c\.jpg does not exist"):
        read_small_grey(tmp_path / "c.jpg", 8)


def sixteen_bits(file: Path, name: str) -> None:
    """A picture that uses 200 of 65536 values."""
    grey = np.asarray(photo(name).convert("L")).astype(np.uint16)
    Image.fromarray((20000 + grey * 200 // 255).astype(np.uint16)).save(file)


def test_sixteen_bits_that_are_stretched_are_neither_blank_nor_unlike_their_copies(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD)
    file = tmp_path / "annotations/instances_train.json"
    file.write_text(file.read_text().replace(".jpg", ".png"))
    for number in range(10):
        sixteen_bits(tmp_path / f"train/train_{number}.png", "same" if number > 7 else f"{number}")
    copy = tmp_path / "train/train_9.png"
    Image.open(copy).save(copy, compress_level=0)  # other bytes
    stretched = inspect_data(tmp_path, stretch_16bit=True)
    (one,) = stretched.findings
    assert one.message == "1 of 10 pictures of 'train' repeats another of them (train_9.png is train_8.png)."
    assert read_small_grey(copy, None, stretch_16bit=True).getextrema() == (0, 255)
    assert only(tmp_path, "blank-pictures").count == 10  # as training would see them without stretching


def pad(folder: Path, number: int) -> None:
    file = folder / f"train/train_{number}.jpg"
    picture = Image.open(file)
    picture.paste((128, 128, 128), (0, HEIGHT - 40, WIDTH, HEIGHT))
    picture.save(file, quality=95)


def test_padding_that_most_pictures_have_is_no_damage(data: Path) -> None:
    for number in range(5):
        pad(data, number)
    one = only(data, "cut-off-pictures")
    assert one.message == (
        "5 of 10 pictures end in plain grey, where data are missing or padding was added (train_0.jpg, train_1.jpg, train_2.jpg and 2 more)."
    )
    assert "or the picture was padded" in KINDS["cut-off-pictures"].meaning
    pad(data, 5)
    assert found(data, "cut-off-pictures") == []


def test_the_only_picture_may_be_cut_off(tmp_path: Path) -> None:
    write_split(tmp_path, "train", GOOD[:1])
    pad(tmp_path, 0)
    assert only(tmp_path, "cut-off-pictures").count == 1
