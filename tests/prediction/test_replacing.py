"""Results replace those of an earlier run and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from detrkit.cards import Category
from detrkit.errors import OutputError
from detrkit.prediction.replacing import check_replaceable
from detrkit.prediction.result_files import CSV_COLUMNS, IMAGES_BEGIN, ResultFormat
from detrkit.prediction.results import save_image

CATEGORIES = [Category(id=7, name="cat", index=0), Category(id=9, name="dog", index=1)]
ALL: list[ResultFormat] = ["json", "csv", "yolo", "images", "crops"]
BOX = "0 0.500000 0.400000 0.200000 0.100000"


def refusal(output: Path, formats: list[ResultFormat], images: tuple[str, ...] = ("in/a.jpg",)) -> str:
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(OutputError) as caught:
        check_replaceable(output, formats, [Path(image) for image in images], CATEGORIES)
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    return str(caught.value)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"labels/a.txt": f"{BOX} 0.750000\n1 0.5 0.5 1 1 1.000000\n", "labels/b.txt": "", "classes.txt": "other\n"},
        {"labels/a.txt": "", "classes.txt": "cat\ndog\n"},
        {"labels/.DS_Store": "x", "labels/a.txt": f"{BOX} 0.750000\n"},
        {"classes.txt": "cat\ndog\n"},
        {"detections.json": "[\n]\n", "detections.csv": ",".join(CSV_COLUMNS) + "\n"},
        {"detections.json": '[\n{"image_id": 1, "category_id": 2}\n]\n', "detections.csv": ""},
        {"detections.json": ""},
        {"images.json": f'{IMAGES_BEGIN},\n"categories": [],\n"images": []}}'},
    ],
)
def test_results_of_an_earlier_run_may_be_replaced(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    save_image(tmp_path / "a.jpg", Image.new("RGB", (8, 8)))
    (tmp_path / "c.jpg").write_text("another name than any drawing")
    save_image(tmp_path / "crops" / "cat" / "a_1.jpg", Image.new("RGB", (8, 8)))
    check_replaceable(tmp_path, ALL, [Path("in/a.jpg"), Path("in/b.jpg")], CATEGORIES)


@pytest.mark.parametrize(
    "text",
    [
        f"{BOX}\n",  # an annotation
        f"{BOX} 0.750000\n{BOX}\n",  # a result that was completed by hand
        f"{BOX} 17\n",  # a track
        f"{BOX} 1\n",
        "0 0.1 0.1 0.2 0.1 0.2 0.2\n",  # an outline
        "notes\n",
    ],
)
def test_labels_without_scores_are_kept(tmp_path: Path, text: str) -> None:
    write(tmp_path, {"labels/x.txt": text, "classes.txt": "cat\ndog\n"})
    assert refusal(tmp_path, ["json", "yolo"]) == (
        f"{tmp_path}/labels contains what detrkit did not write, such as {tmp_path}/labels/x.txt, which would be overwritten or mixed with "
        "results: choose another --output"
    )
    check_replaceable(tmp_path, ["json", "csv", "images"], [Path("in/x.jpg")], CATEGORIES)  # nothing is written there


@pytest.mark.parametrize("name", ["labels/train/x.txt", "labels/x.json", "labels/classes.txt"])
def test_other_files_among_labels_are_kept(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"labels/a.txt": f"{BOX} 0.750000\n", name: BOX})
    assert f"such as {tmp_path / name}, which" in refusal(tmp_path, ["yolo"])


def test_labels_of_background_and_lists_of_classes_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "one", {"labels/x.txt": ""})
    assert refusal(tmp_path / "one", ["yolo"]) == (
        f"{tmp_path}/one/labels contains empty labels and no classes.txt of this model lies beside it, so they may be annotations: choose "
        "another --output"
    )
    write(tmp_path / "two", {"classes.txt": "cat\nmouse\n"})
    assert refusal(tmp_path / "two", ["yolo"]) == (
        f"{tmp_path}/two/classes.txt was not written by detrkit and would be overwritten: choose another --output"
    )


@pytest.mark.parametrize(("format_", "name"), [("json", "detections.json"), ("csv", "detections.csv")])
def test_files_of_the_same_name_are_kept(tmp_path: Path, format_: ResultFormat, name: str) -> None:
    write(tmp_path, {name: '{"images": []}'})
    assert refusal(tmp_path, [format_]) == (
        f"{tmp_path / name} was not written by detrkit and would be overwritten: choose another --output"
    )


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_pictures_that_were_not_drawn_are_kept(tmp_path: Path, suffix: str) -> None:
    drawing = save_image(tmp_path / f"a{suffix}", Image.new("RGB", (8, 8)))
    check_replaceable(tmp_path, ["images"], [Path(f"in/a{suffix}")], CATEGORIES)
    Image.open(drawing).save(drawing)  # as an editor writes it
    assert refusal(tmp_path, ["images"], (f"in/a{suffix}",)) == (
        f"{drawing} was not drawn by detrkit and would be overwritten by the drawing of in/a{suffix}: choose another --output"
    )
    check_replaceable(tmp_path, ["json", "csv", "yolo"], [Path(f"in/a{suffix}")], CATEGORIES)


def test_folders_in_the_place_of_files(tmp_path: Path) -> None:
    formats: dict[str, ResultFormat] = {
        "detections.json": "json", "detections.csv": "csv", "classes.txt": "yolo", "a.jpg": "images",
    }  # fmt: skip
    for name, format_ in formats.items():
        (tmp_path / name).mkdir()
        assert refusal(tmp_path, [format_]).startswith(f"{tmp_path / name} is a folder, and a file is to be written:")
        (tmp_path / name).rmdir()
    (tmp_path / "labels").write_text("x")
    assert refusal(tmp_path, ["yolo"]) == (
        f"{tmp_path}/labels is a file, and a folder is to be written: choose another --output"
    )


def test_a_list_of_images_and_pictures_of_the_user_are_kept(tmp_path: Path) -> None:
    write(tmp_path, {"images.json": '{"images": []}'})
    assert refusal(tmp_path, ["json"]) == (
        f"{tmp_path / 'images.json'} was not written by detrkit and would be overwritten: choose another --output"
    )
    (tmp_path / "crops" / "cat").mkdir(parents=True)
    own = tmp_path / "crops" / "cat" / "mine.png"
    Image.new("RGB", (8, 8)).save(own)
    assert refusal(tmp_path, ["crops"]) == (
        f"{tmp_path / 'crops'} contains what detrkit did not write, such as {own}, which would be mixed with results: choose another --output"
    )
