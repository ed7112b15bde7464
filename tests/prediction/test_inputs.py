"""Image files from files, folders, patterns and lists as a user types them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from detrkit.errors import DataError, OutputError
from detrkit.prediction.inputs import find_images, natural_order, without_results
from detrkit.prediction.results import save_image


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for name in ("p10.jpg", "p2.JPG", "p1.png", "notes.data", ".hidden.jpg", "deeper/p3.jpg", "odd[1].jpg"):
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
    assert names(find_images(["photos/notes.data"])) == ["notes.data"]
    assert names(find_images(["photos/odd[1].jpg"])) == ["odd[1].jpg"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "No images were given"),
        (
            ["empty"],
            r"The folder empty contains no images: name one that does, or add --recursive for the folders inside it\.$",
        ),
        (["@gone.txt"], "The list gone.txt does not exist: check the path; the current folder is"),
        (["photos/p4.jpg"], "photos/p4.jpg does not exist: check the path; the current folder is"),
        (["photos/*.bmp"], r"The pattern 'photos/\*.bmp' matches no images"),
        (["photos/p1.png", "missing"], "missing does not exist"),
    ],
)
def test_missing_images_are_an_error(photos: Path, given: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_images(given)


def test_folders_inside_are_searched_on_request(photos: Path) -> None:
    (photos / "deeper" / "back").symlink_to(photos, target_is_directory=True)
    (photos / ".hidden").mkdir()
    (photos / ".hidden" / "p4.jpg").touch()
    found = find_images([photos], recursive=True)
    assert names(found) == ["p3.jpg", "odd[1].jpg", "p1.png", "p2.JPG", "p10.jpg"]
    with pytest.raises(DataError, match=r"The folder empty contains no images: name one that does\.$"):
        find_images(["empty"], recursive=True)


def test_a_list_names_files_beside_it_or_in_the_current_folder(photos: Path, tmp_path: Path) -> None:
    lines = ["p10.jpg", "", "  photos/p2.JPG ", str(photos / "deeper" / "p3.jpg"), "photos/../photos/p10.jpg"]
    (photos / "list.txt").write_bytes("\r\n".join(lines).encode("utf-16"))
    for given in ("photos/list.txt", "@photos/list.txt"):
        assert names(find_images([given])) == ["p3.jpg", "p2.JPG", "p10.jpg"]
    (photos / "list").write_text("p1.png\n")
    assert names(find_images(["@photos/list"])) == ["p1.png"]
    assert names(find_images(["photos/list"])) == ["list"]


def test_a_file_that_is_missing_in_a_list_does_not_cost_the_others(photos: Path) -> None:
    (photos / "list.txt").write_text("p1.png\ngone.jpg\n")
    assert find_images(["photos/list.txt"]) == [Path("photos/gone.jpg"), Path("photos/p1.png")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "gone.jpg\nlost.jpg\n",
            r"names no file that exists \(the first: photos/gone.jpg\): write the path of an image on each",
        ),
        ("\n", "list.txt names no file that exists: write the path of an image on each line"),
    ],
)
def test_a_list_without_files_is_refused(photos: Path, lines: str, message: str) -> None:
    (photos / "list.txt").write_text(lines)
    with pytest.raises(DataError, match=message):
        find_images(["photos/list.txt"])


def test_drawings_of_an_earlier_run_are_left_out_of_a_search(photos: Path, tmp_path: Path) -> None:
    found = find_images(["photos"], recursive=True)
    kept, notes = without_results(found, photos / "deeper", searched=True)
    assert names(kept) == ["odd[1].jpg", "p1.png", "p2.JPG", "p10.jpg"]
    assert notes == [
        f"1 of 5 images lies in {photos / 'deeper'}, the folder for the results, and was left out (the first: photos/deeper/p3.jpg); "
        "another --output includes them."
    ]
    assert without_results(found, tmp_path, searched=True) == (found, [])
    refused = f"{photos / 'deeper'} contains the input images, which would be overwritten: choose another --output"
    for images, searched in ((found, False), (found[:1], True)):
        with pytest.raises(OutputError, match=refused):
            without_results(images, photos / "deeper", searched=searched)


def test_natural_order_compares_numbers() -> None:
    paths = [Path("b1"), Path("a10"), Path("a9b"), Path("A9")]
    assert sorted(paths, key=natural_order) == [Path("A9"), Path("a9b"), Path("a10"), Path("b1")]


def test_signs_that_look_like_digits_have_an_order_too() -> None:
    assert sorted([Path("²"), Path("a²2"), Path("a²10")], key=natural_order) == [Path("a²2"), Path("a²10"), Path("²")]


def test_a_single_path_is_not_taken_for_letters(photos: Path) -> None:
    assert names(find_images("photos/p1.png")) == names(find_images(photos / "p1.png")) == ["p1.png"]


@pytest.mark.parametrize("pattern", ["photos/p**.jpg", "**photos/*.jpg", "photos/***/p1.png"])
@pytest.mark.usefixtures("photos")
def test_two_stars_inside_a_name_are_refused(pattern: str) -> None:
    with pytest.raises(DataError) as caught:
        find_images([pattern])
    assert str(caught.value) == (
        f"The pattern '{pattern}' has '**' inside a name, where it has no meaning: write '*' there; '**' stands alone, for any folders, as in "
        "'photos/**/*.jpg'."
    )


def test_without_drawings_nothing_is_overwritten(photos: Path) -> None:
    found = find_images(["photos"], recursive=True)
    for searched in (False, True):
        assert without_results(found, photos / "deeper", searched=searched, drawn=False) == (found, [])
        assert without_results(found[:1], photos / "deeper", searched=searched, drawn=False) == (found[:1], [])
    save_image(photos / "deeper" / "p3.jpg", Image.new("RGB", (4, 4)))
    assert without_results(found, photos / "deeper", searched=False, drawn=False) == (found, [])
    kept, (note,) = without_results(found, photos / "deeper", searched=True, drawn=False)
    assert names(kept) == ["odd[1].jpg", "p1.png", "p2.JPG", "p10.jpg"]
    assert note.startswith(f"1 of 5 images lies in {photos / 'deeper'}, the folder for the results, and was left out")
    only = [photos / "deeper" / "p3.jpg"]
    assert without_results(only, photos / "deeper", searched=True, drawn=False) == (only, [])
