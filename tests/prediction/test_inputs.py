"""Image files from files, folders and patterns as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.errors import DataError
from detrkit.prediction.inputs import find_images, natural_order


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("p10.jpg", "p2.JPG", "p1.png", "notes.txt", ".hidden.jpg", "deeper/p3.jpg", "odd[1].jpg"):
        (folder / name).touch()
    monkeypatch.chdir(tmp_path)
    return folder


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_gives_its_own_images_in_natural_order(photos: Path) -> None:
    assert names(find_images([photos])) == ["odd[1].jpg", "p1.png", "p2.JPG", "p10.jpg"]


def test_files_patterns_and_folders_together_each_image_once(photos: Path) -> None:
    images = find_images(["photos/p10.jpg", str(photos / "*.jpg"), "photos/deeper/../p10.jpg"])
    assert names(images) == ["odd[1].jpg", "p10.jpg"]
    assert names(find_images(["photos/**/p*"])) == ["p3.jpg", "p1.png", "p2.JPG", "p10.jpg"]


def test_a_file_that_is_named_directly_may_have_any_suffix(photos: Path) -> None:
    assert names(find_images(["photos/notes.txt"])) == ["notes.txt"]
    assert names(find_images(["photos/odd[1].jpg"])) == ["odd[1].jpg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No images were given"),
        (["empty"], "The folder empty contains no images"),
        (["photos/p4.jpg"], "photos/p4.jpg does not exist: check the path; the current folder is"),
        (["photos/*.bmp"], r"The pattern 'photos/\*.bmp' matches no images"),
        (["photos/p1.png", "missing"], "missing does not exist"),
    ],
)
def test_missing_images_are_an_error(photos: Path, given: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_images(given)


def test_natural_order_compares_numbers() -> None:
    paths = [Path("b1"), Path("a10"), Path("a9b"), Path("A9")]
    assert sorted(paths, key=natural_order) == [Path("A9"), Path("a9b"), Path("a10"), Path("b1")]
