"""`detrkit explain` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands.running import detrkit_command, refusal
from PIL import Image

import detrkit
from detrkit.data import read_digits


@pytest.fixture(scope="module")
def deformable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with deformable attention and no layers in its encoder."""
    torch.manual_seed(0)
    model = detrkit.build(
        "deformable-detr-compact", classes=list(read_digits("val", images=1, size=64).categories),
        preprocessing=detrkit.Preprocessing(64, 64), queries=6, width=64, hidden=32,
    )  # fmt: skip
    return detrkit.save(model, tmp_path_factory.mktemp("model") / "deformable.safetensors")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (96, 64), "gray").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_detections_of_an_image(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    result = detrkit_command("explain", checkpoint, photo, "--threshold", 0, "--heads", 0, 3, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    names = [f"photo_detection{number}.png" for number in range(3)]
    assert sorted(each.name for each in (tmp_path / "explained").iterdir()) == [
        "explanation.html",
        "explanation.json",
        "photo.npz",
        *names,
    ]
    assert all(name in result.stdout for name in names)
    stored = json.loads((tmp_path / "explained" / "explanation.json").read_text())["pictures"][0]
    assert stored["file"] == photo.as_posix()
    assert [query["detection"] for query in stored["queries"]] == [0, 1, 2]
    assert stored["queries"][0]["looks"][0]["heads"] == [0, 3]
    scores = [query["score"] for query in stored["queries"]]
    assert scores == sorted(scores, reverse=True)


def test_a_query_and_a_place(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    assert detrkit_command("explain", checkpoint, photo, "--query", 4, "--output", "q", folder=tmp_path).returncode == 0
    assert (tmp_path / "q" / "photo_query4.png").is_file()
    result = detrkit_command("explain", checkpoint, photo, "--at", "70,20", "--output", "p", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    place = json.loads((tmp_path / "p" / "explanation.json").read_text())["pictures"][0]["place"]
    assert place["xy"] == [70, 20]
    assert place["tokens"][0]["token"] == 1  # of 2 × 2 cells, the first row's second
    assert (tmp_path / "p" / "photo_place.png").is_file()


def test_why_an_object_was_missed(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    name = sorted((data / "val").iterdir())[0].name
    result = detrkit_command("explain", checkpoint, "--data", data, "--why", name, "--threshold", 1, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    stored = json.loads((tmp_path / "explained" / "explanation.json").read_text())["pictures"][0]
    assert stored["image"] == name
    lines = result.stdout.splitlines()
    for number, each in enumerate(stored["objects"]):
        assert lines[number] == f"{number}  {each['sentence']}"
        assert each["verdict"]["reason"] in ("low score", "background")


def test_a_turned_picture_is_read_as_it_was_annotated(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    picture = sorted((data / "val").iterdir())[0]
    turned = Image.Exif()
    turned[0x0112] = 3  # by half a turn, which no size gives away
    Image.open(picture).save(picture, exif=turned)
    found = {}
    for orientation in ("stored", "shown"):
        result = detrkit_command(
            "explain", checkpoint, "--data", data, "--why", picture.name, "--orientation", orientation,
            "--output", orientation, folder=tmp_path,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        content = json.loads((tmp_path / orientation / "explanation.json").read_text())
        found[orientation] = content["pictures"][0]["objects"]
    boxes = [[each["box_xyxy"] for each in objects] for objects in found.values()]
    assert boxes[0] == boxes[1]
    assert found["stored"] != found["shown"]


def test_what_queries_are_for(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    result = detrkit_command("explain", checkpoint, "--data", data, "--threshold", 0, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    stored = json.loads((tmp_path / "explained" / "explanation.json").read_text())
    assert stored["used_share"] == 1.0
    assert stored["evenness"] == pytest.approx(1.0)
    assert [query["found_in_images"] for query in stored["queries"]] == [stored["images"]] * 6
    assert f"6 of 6 queries found something in {stored['images']} images" in result.stdout
    assert (tmp_path / "explained" / "queries.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is nothing to explain: name images, or a data set with --data"),
        (("PHOTO", "--why", "a.png"), "--why is about a data set: add --data with its path"),
        (("PHOTO", "--split", "val"), "--split is about a data set: add --data with its path"),
        (("PHOTO", "--orientation", "auto"), "--orientation is about a data set: add --data with its path"),
        (("PHOTO", "--match-by", "id"), "--match-by is about a data set: add --data with its path"),
        (("--data", "DATA", "--match-by", "id"), "--match-by is about the objects of an image: add --why with its name"),
        (("PHOTO", "--data", "DATA"), "images and --data exclude each other"),
        (("--data", "DATA", "--query", "1"), "--query need an image that is named: leave --data out"),
        (("--data", "DATA", "--heads", "1"), "--heads choose from what a model does with an image"),
        (("PHOTO", "--query", "1", "--at", "1,2"), "--query and --at exclude each other: give one of them"),
        (("PHOTO", "--at", "here"), "--at must be x and y in pixels, such as 120,80, not 'here'"),
        (("PHOTO", "--at", "96,3"), "--at must lie in the picture, which is 96 × 64 pixels, and 96,3 does not"),
        (("PHOTO", "--query", "6"), "--query must be from 0 to 5, not 6"),
        (("PHOTO", "--detection", "6"), "--detection must be from 0 (the best) to 5 in this picture, not 6"),
        (("PHOTO", "--layers", "1"), "--layers must be from 0 to 0, those of the decoder, not 1"),
        (("PHOTO", "--heads", "8"), "--heads must be from 0 to 7, those of its attention, not 8"),
        (("missing.png",), "missing.png does not exist"),
        (("--data", "missing"), "missing"),
        (("--data", "DATA", "--why", "x.jpg"), "has no image 'x.jpg': its names are such as"),
    ],
)  # fmt: skip
def test_what_is_refused(
    arguments: tuple[str, ...], sentence: str, checkpoint: Path, photo: Path, data: Path, tmp_path: Path
) -> None:
    places = {"PHOTO": photo, "DATA": data}
    assert sentence in refusal("explain", checkpoint, *(places.get(each, each) for each in arguments), folder=tmp_path)


def test_a_model_without_an_encoder_says_what_it_has(deformable: Path, photo: Path, tmp_path: Path) -> None:
    assert refusal("explain", deformable, photo, "--at", "5,5", folder=tmp_path) == (
        "detrkit: the encoder of a deformable-detr-compact has no layers: leave the place out, and look at what its decoder's queries attended to"
    )


def test_an_image_that_cannot_be_read_stops_no_other(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    result = detrkit_command("explain", checkpoint, tmp_path / "broken.png", photo, "--query", 0, folder=tmp_path)
    assert result.returncode == 2
    assert "1 of 2 images were left out, the first since: " in result.stderr
    stored = json.loads((tmp_path / "explained" / "explanation.json").read_text())["pictures"]
    assert [each["file"] for each in stored] == [photo.as_posix()]
    assert (tmp_path / "explained" / "explanation.html").is_file()
