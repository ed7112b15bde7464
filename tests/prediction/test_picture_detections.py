"""What a predictor gives back: supervision's detections, in one line as text, with their picture in notebooks."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
import torch
from detectors import BrightDetector
from PIL import Image

from detrkit.data import read_digits
from detrkit.errors import DataError
from detrkit.prediction import DetectionsOfPictures, PictureDetections, Predictor, SlicedPredictor, draw, truth_of


def spotted(width: int = 80, height: int = 60) -> Image.Image:
    """Black with one white object."""
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 255, 255), (20, 10, 40, 30))
    return picture


def several(count: int = 7) -> PictureDetections:
    boxes = np.array([[10.0 * place, 5.0, 10.0 * place + 8, 25.0] for place in range(count)])
    names = [f"class\n{place}" for place in range(count)]
    scores = np.linspace(0.9, 0.3, count)
    return PictureDetections(boxes, confidence=scores, class_id=np.arange(count), data={"class_name": np.array(names)})


def opened(content: bytes | None) -> Image.Image:
    assert content is not None
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "JPEG"
    return picture


def difference(first: Image.Image, second: Image.Image) -> float:
    """The mean difference of grey levels; JPEG alone makes some."""
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second.convert("RGB"), dtype=float)).mean())


@pytest.mark.parametrize("kind", [Predictor, lambda predictor: SlicedPredictor(predictor, 50)], ids=["plain", "sliced"])
def test_a_call_gives_detections_of_supervision_that_know_their_picture(kind: type) -> None:
    predictor = kind(Predictor(BrightDetector())) if kind is not Predictor else Predictor(BrightDetector())
    found = predictor(spotted())
    assert isinstance(found, sv.Detections)
    assert repr(found) == f"<PictureDetections 1 detection: car {found.confidence[0]:.2f}>"
    assert difference(found.plot(), draw(spotted(), found)) == 0
    assert found._repr_html_() is None  # notebooks would show it in place of the picture


@pytest.mark.parametrize("form", ["file", "array", "tensor"])
def test_any_form_of_picture_is_shown(form: str, tmp_path: Path) -> None:
    spotted().save(tmp_path / "a.png")
    pixels = np.asarray(spotted())
    picture = {"file": str(tmp_path / "a.png"), "array": pixels, "tensor": torch.from_numpy(pixels.copy())}[form]
    found = Predictor(BrightDetector())(picture)
    assert difference(found.plot(), draw(spotted(), found)) == 0


def test_long_lists_are_cut_and_names_stay_on_the_line() -> None:
    assert repr(several()) == (
        "<PictureDetections 7 detections: class 0 0.90, class 1 0.80, class 2 0.70, class 3 0.60, class 4 0.50 and 2 more>"
    )
    assert repr(several()[:0]) == "<PictureDetections 0 detections>"
    assert repr(PictureDetections(np.zeros((2, 4)))) == "<PictureDetections 2 detections>"


@pytest.mark.parametrize(
    ("size", "shown"), [((80, 60), (480, 360)), ((640, 480), (640, 480)), ((3000, 1000), (1000, 333))]
)
def test_notebooks_get_a_picture_of_a_size_that_suits_them(size: tuple[int, int], shown: tuple[int, int]) -> None:
    picture = Image.new("RGB", size)
    found = several(1)
    found.xyxy = np.array([[0.2, 0.2, 0.75, 0.9]]) * np.tile(size, 2)
    found = PictureDetections.of(found, lambda: picture)
    shown_picture = opened(found._repr_jpeg_())
    assert shown_picture.size == shown
    rows, columns = np.nonzero(np.asarray(shown_picture, dtype=float).max(axis=2) > 90)
    assert columns.max() == pytest.approx(0.75 * shown[0], abs=4)
    assert rows.max() == pytest.approx(0.9 * shown[1], abs=4)
    assert found.plot().size == size


def test_parts_know_the_picture_and_plain_copies_do_not() -> None:
    picture = Image.new("RGB", (100, 40))
    found = PictureDetections.of(several(), lambda: picture)
    assert len(found[found.confidence > 0.55]) == 4
    for part in (found[2], found[found.confidence > 0.55], found[:3], found[[0, 5]]):
        assert isinstance(part, PictureDetections)
        assert difference(part.plot(), draw(picture, part)) == 0
    assert found["class_name"].tolist() == found.data["class_name"].tolist()
    for other in (found.without_picture(), copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert other == found
        assert other._repr_jpeg_() is None
        with pytest.raises(DataError, match=r"do not know their picture: use detrkit.prediction.draw"):
            other.plot()


def test_pickles_are_as_small_as_without_a_picture() -> None:
    found = Predictor(BrightDetector())(spotted(800, 600))
    assert len(pickle.dumps(found)) < 5_000


def test_a_file_that_is_gone_leaves_a_table(tmp_path: Path) -> None:
    spotted().save(tmp_path / "a.png")
    found = Predictor(BrightDetector())(tmp_path / "a.png")
    assert found._repr_jpeg_() is not None
    (tmp_path / "a.png").unlink()
    assert found._repr_jpeg_() is None
    text = found._repr_html_()
    assert text is not None
    for word in ("1 detection", "car", f"{found.confidence[0]:.3f}", f"{found.xyxy[0, 3]:.3f}"):
        assert word in text
    with pytest.raises(DataError, match=r"a\.png does not exist"):
        found.plot()


def test_several_pictures_are_one_sheet() -> None:
    predictor = Predictor(BrightDetector())
    found = predictor([spotted(), spotted(), Image.new("RGB", (80, 60))])
    assert isinstance(found, list)
    assert [len(each) for each in found] == [1, 1, 0]
    assert repr(found) == "<DetectionsOfPictures 3 pictures, 2 detections>"
    sheet = opened(found._repr_jpeg_())
    assert sheet.size == (970, 240)
    cells = [sheet.crop((left, 0, left + 320, 240)) for left in (0, 325, 650)]
    assert difference(cells[0], cells[1]) < 2
    assert difference(cells[0], cells[2]) > 10


def test_of_many_pictures_the_first_are_shown() -> None:
    found = Predictor(BrightDetector())([spotted()] * 13)
    assert opened(found._repr_jpeg_()).size == (970, 4 * 240 + 3 * 5 + 2 * 26)  # four rows, and a line of text
    assert DetectionsOfPictures()._repr_jpeg_() is None
    assert DetectionsOfPictures([several()])._repr_jpeg_() is None


def test_a_batch_as_an_array_gives_a_sheet() -> None:
    found = Predictor(BrightDetector())(np.stack([np.asarray(spotted())] * 2))
    assert repr(found) == "<DetectionsOfPictures 2 pictures, 2 detections>"


def test_the_truth_of_a_data_set_shows_itself() -> None:
    digits = read_digits("val", images=4, size=64)
    truth = truth_of(digits, 2)
    names = [digits.categories[label].name for label in digits.objects(2).labels]
    assert repr(truth) == f"<PictureDetections {len(names)} detections: {', '.join(names)}>"
    assert difference(truth.plot(), draw(digits.image(2), truth)) == 0
    assert opened(truth._repr_jpeg_()).size == (480, 480)


def test_masks_grow_with_the_picture_that_a_notebook_shows() -> None:
    mask = np.zeros((1, 100, 200), dtype=bool)
    mask[0, 60:100, 120:200] = True
    found = PictureDetections.of(
        sv.Detections(
            xyxy=np.array([[120.0, 60.0, 200.0, 100.0]]),
            mask=mask,
            class_id=np.array([1]),
            data={"class_name": np.array(["cat"])},
        ),
        lambda: Image.new("RGB", (200, 100)),
    )
    content = found._repr_jpeg_()
    assert content is not None
    shown = np.asarray(Image.open(io.BytesIO(content)).convert("L")).astype(int)
    assert shown.shape == (240, 480)
    assert shown[200, 400] > 25  # inside the enlarged mask
    assert shown[80, 150] < 25  # where the mask of the small picture would end
