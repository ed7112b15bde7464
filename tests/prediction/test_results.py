"""Result entries keep ids and digits; drawn pictures get unique names and are saved completely or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from detrkit.errors import OutputError
from detrkit.prediction.results import output_names, save_image, to_entries, to_file_entries


def detections() -> sv.Detections:
    return sv.Detections(
        xyxy=np.array([[10.25, 20.5, 110.75, 60.5], [0, 0, 5, 6]], dtype=np.float32),
        confidence=np.array([0.9, 0.1], dtype=np.float32),
        class_id=np.array([90, 1]),
        data={"class_name": np.array(["toothbrush", "person"])},
    )


def test_entries_have_width_and_height_and_the_categories_own_ids() -> None:
    assert to_entries(detections(), 139) == [
        {"image_id": 139, "category_id": 90, "bbox": [10.25, 20.5, 100.5, 40.0], "score": 0.899999976},
        {"image_id": 139, "category_id": 1, "bbox": [0.0, 0.0, 5.0, 6.0], "score": 0.100000001},
    ]


def test_digits_of_entries_restore_every_float32() -> None:
    scores = np.random.default_rng(0).random(1000, dtype=np.float32)
    many = sv.Detections(xyxy=np.zeros((1000, 4)), confidence=scores, class_id=np.zeros(1000, dtype=int))
    restored = [entry["score"] for entry in json.loads(json.dumps(to_entries(many, 1)))]
    assert (np.array(restored, dtype=np.float32) == scores).all()


def test_numeric_file_names_are_image_ids() -> None:
    entries = to_file_entries([Path("a/000000000139.jpg"), Path("b/42.png")], [detections(), detections()[:1]])
    assert [entry["image_id"] for entry in entries] == [139, 139, 42]
    assert "file_name" not in entries[0]


@pytest.mark.parametrize("paths", [["a/1.jpg", "b/01.jpg"], ["a/1.jpg", "a/dog.jpg"], ["a/1.jpg", "a/².jpg"]])
def test_other_file_names_are_numbered_and_named(paths: list[str]) -> None:
    entries = to_file_entries([Path(path) for path in paths], [detections(), detections()[:1]])
    assert [(entry["image_id"], entry["file_name"]) for entry in entries] == [
        (1, paths[0]),
        (1, paths[0]),
        (2, paths[1]),
    ]


def test_a_picture_is_saved_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = save_image(tmp_path / "new" / "c.png", Image.new("RGB", (4, 3), (1, 2, 3)))
    assert Image.open(file).getpixel((0, 0)) == (1, 2, 3)

    def full_disk(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OutputError, match=r"c\.png cannot be written \(No space left on device\)"):
        save_image(file, Image.new("RGB", (4, 3), (9, 9, 9)))
    assert Image.open(file).getpixel((0, 0)) == (1, 2, 3)
    assert list(file.parent.iterdir()) == [file]


def test_drawn_copies_get_unique_names() -> None:
    paths = ["a/dog.jpg", "b/dog.jpg", "c/Dog.JPG", "cat.tiff", "cat.png", "a/dog_2.jpg", "bird.WEBP"]
    assert output_names([Path(path) for path in paths]) == [
        "dog.jpg",
        "dog_2.jpg",
        "Dog_3.JPG",
        "cat.png",
        "cat_2.png",
        "dog_2_2.jpg",
        "bird.WEBP",
    ]


def test_drawn_copies_differ_without_their_endings_too_as_labels_are_named_after_them() -> None:
    assert output_names([Path("a/dog.jpg"), Path("b/dog.png"), Path("b/DOG.webp")]) == [
        "dog.jpg",
        "dog_2.png",
        "DOG_3.webp",
    ]
    many = output_names([Path(f"{number}/frame.jpg") for number in range(20_000)])
    assert (many[0], many[-1], len(set(many))) == ("frame.jpg", "frame_20000.jpg", 20_000)


@pytest.mark.parametrize("name", ["picture.doc", "picture", "picture.psd"])
def test_a_picture_needs_the_suffix_of_a_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=f"{name} does not end like an image file that can be written"):
        save_image(tmp_path / name, Image.new("RGB", (4, 3)))
