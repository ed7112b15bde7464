"""Result entries keep ids and digits; files appear whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from PIL import Image

from detrkit.errors import OutputError
from detrkit.prediction.results import (
    prepare_output_folder,
    save_image_atomically,
    to_entries,
    to_file_entries,
    write_json_atomically,
    write_text_atomically,
)


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


def test_digits_of_entries_bring_back_every_float32() -> None:
    scores = np.random.default_rng(0).random(1000, dtype=np.float32)
    many = sv.Detections(xyxy=np.zeros((1000, 4)), confidence=scores, class_id=np.zeros(1000, dtype=int))
    back = [entry["score"] for entry in json.loads(json.dumps(to_entries(many, 1)))]
    assert (np.array(back, dtype=np.float32) == scores).all()


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


def test_files_are_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "a.json", {"name": "Straße"})
    write_text_atomically(tmp_path / "b.html", "<p>")
    save_image_atomically(tmp_path / "c.png", Image.new("RGB", (4, 3), (1, 2, 3)))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "Straße"}
    assert Image.open(tmp_path / "c.png").getpixel((0, 0)) == (1, 2, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.html", "c.png"]


def test_a_failure_leaves_the_old_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_text_atomically(tmp_path / "a.txt", "old")

    def full_disk(self: Path, *arguments: object, **options: object) -> int:
        with self.open("w") as stream:
            stream.write("ne")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OutputError, match=r"a\.txt cannot be written \(No space left on device\)"):
        write_text_atomically(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    file = write_json_atomically(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json_atomically(file, float("nan"))
    assert file.read_text() == "1\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = write_text_atomically(tmp_path / "file", "")
    with pytest.raises(OutputError, match=r"The folder .*file/results cannot be written \(Not a directory\)"):
        prepare_output_folder(file / "results")
    with pytest.raises(OutputError, match=r"The folder .*file cannot be written \(File exists\)"):
        prepare_output_folder(file)
    with pytest.raises(OutputError, match=r"file/a\.json cannot be written \(Not a directory\)"):
        write_json_atomically(file / "a.json", {})
    with pytest.raises(OutputError, match=r"missing/a\.json cannot be written \(No such file or directory\)"):
        write_json_atomically(tmp_path / "missing" / "a.json", {})


@pytest.mark.parametrize("name", ["picture.doc", "picture", "picture.psd"])
def test_a_picture_needs_the_ending_of_a_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=f"{name} has no ending of an image format that can be written"):
        save_image_atomically(tmp_path / name, Image.new("RGB", (4, 3)))


def test_an_output_folder_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    folder = prepare_output_folder(tmp_path / "runs" / "first")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    prepare_output_folder(folder)
