"""The built-in set: the same images for the same seed, nothing shared between splits, tight boxes, visible digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images

from detrkit.data import DetectionDataset, read_digits
from detrkit.data.digits import DigitImages, digit_sources
from detrkit.errors import DataError


@pytest.fixture(scope="module")
def dataset() -> DetectionDataset:
    return read_digits("train", images=300)


def test_counts_and_categories(dataset: DetectionDataset) -> None:
    assert len(read_digits("val")) == 200
    assert dataset.name == "digits train"
    assert [(category.id, category.name, category.index) for category in dataset.categories] == [
        (digit, str(digit), digit) for digit in range(10)
    ]
    counts = np.diff(dataset.offsets)
    assert (counts.min(), counts.max()) == (1, 6)
    assert np.bincount(dataset.labels, minlength=10).min() > 60  # all digits are about equally frequent
    assert dataset.image(0).size == (128, 128)
    assert not dataset.crowd.any()


def test_the_seed_determines_everything(dataset: DetectionDataset) -> None:
    again, other = read_digits("train", images=20), read_digits("train", images=20, seed=1)
    first = dataset.subset(range(20))  # the first images are the same, however many follow
    for i in range(20):
        assert again.image(i).tobytes() == first.image(i).tobytes()
        assert other.image(i).tobytes() != first.image(i).tobytes()
    np.testing.assert_array_equal(again.boxes_xyxy, first.boxes_xyxy)
    np.testing.assert_array_equal(again.labels, first.labels)
    assert read_digits("val", images=1).image(0).tobytes() != again.image(0).tobytes()


def test_the_default_images_are_those_that_stored_figures_are_of() -> None:
    """The last one of each split; colours to a level, since libraries may round otherwise."""
    expected: dict[str, tuple[int, list[int], list[list[int]], list[float]]] = {
        "train": (17462, [2, 0, 6, 7], [[70, 75, 101, 118], [62, 32, 89, 81], [35, 35, 53, 65], [14, 2, 42, 49]], [139.3, 144.6, 148.3]),
        "val": (717, [3, 4, 7, 6], [[42, 10, 77, 69], [21, 85, 39, 113], [20, 11, 33, 34], [29, 64, 44, 87]], [151.4, 118.7, 75.8]),
    }  # fmt: skip
    for split, (count, labels, boxes, colour) in expected.items():
        whole = read_digits(split)
        objects = whole.objects(len(whole) - 1)
        assert len(whole.labels) == count
        assert objects.labels.tolist() == labels
        assert objects.boxes_xyxy.tolist() == boxes
        mean = np.asarray(whole.image(len(whole) - 1)).mean(axis=(0, 1))
        np.testing.assert_allclose(mean, colour, atol=0.5)


def test_an_image_is_drawn_when_it_is_asked_for_and_kept() -> None:
    dataset = read_digits("train", images=5, size=64)
    assert isinstance(dataset.images, DigitImages)
    last = dataset.image(4)
    assert dataset.images.drawn.tolist() == [False, False, False, False, True]
    assert dataset.subset([4, 0]).image(0).tobytes() == last.tobytes()  # order does not matter
    dataset.images.pixels[4] = 7
    assert np.asarray(dataset.image(4)).max() == 7


def test_splits_share_neither_digits_nor_photographs() -> None:
    train, val = digit_sources("train"), digit_sources("val")
    digits, photographs = load_digits(), load_sample_images().images
    joined = np.concatenate([train.glyphs, val.glyphs])[:, 4:12, 4:12] * 16
    np.testing.assert_array_equal(joined, digits.images)  # each digit once, in one of the splits
    np.testing.assert_array_equal(np.concatenate([train.labels, val.labels]), digits.target)
    for position, photograph in enumerate(photographs):
        parts = [train.photographs[position], val.photographs[position]]
        np.testing.assert_array_equal(np.concatenate(parts), photograph)


def test_sizes_and_positions(dataset: DetectionDataset) -> None:
    boxes = dataset.boxes_xyxy
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    long_side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert 16 <= long_side.min() <= 22
    assert 58 <= long_side.max() <= 70
    np.testing.assert_array_equal(dataset.areas, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


def test_no_digit_is_mostly_hidden(dataset: DetectionDataset) -> None:
    overlaps = 0
    for index in range(len(dataset)):
        boxes = dataset.objects(index).boxes_xyxy.astype(int)
        for position, (left, top, right, bottom) in enumerate(boxes):
            others = np.zeros((128, 128), dtype=bool)
            for x0, y0, x1, y1 in np.delete(boxes, position, axis=0):
                others[y0:y1, x0:x1] = True
            covered = others[top:bottom, left:right].mean()
            assert covered <= 0.31
            overlaps += covered > 0
    assert overlaps > 50  # but some do overlap


def test_boxes_are_tight_around_the_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a black background, everything that is not black is ink."""
    sources = digit_sources("train")
    black = type(sources)(sources.glyphs, sources.labels, tuple(photo * 0 for photo in sources.photographs))
    monkeypatch.setattr("detrkit.data.digits.digit_sources", lambda split: black)
    dataset = read_digits("train", images=200)
    alone = [index for index in range(200) if len(dataset.objects(index)) == 1]
    assert len(alone) > 10
    for index in alone:
        bright = np.asarray(dataset.image(index)).max(axis=2) > 90
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(dataset.objects(index).boxes_xyxy[0] - box).max() <= 1


def test_digits_stand_out_from_the_background(dataset: DetectionDataset) -> None:
    """Light and dark in a box, one of which is ink and the other background, differ clearly."""
    plain = read_digits("train", images=60)
    contrasts = []
    for index in range(60):
        grey = np.asarray(plain.image(index).convert("L"), dtype=float)
        for left, top, right, bottom in plain.objects(index).boxes_xyxy.astype(int):
            low, high = np.percentile(grey[top:bottom, left:right], [3, 97])
            contrasts.append(high - low)
    assert np.percentile(contrasts, 5) > 60


def test_other_sizes_scale_the_digits() -> None:
    large = read_digits("val", images=40, size=256)
    assert large.image(0).size == (256, 256)
    long_side = (large.boxes_xyxy[:, 2:] - large.boxes_xyxy[:, :2]).max(axis=1)
    assert long_side.min() >= 32
    assert 100 <= long_side.max() <= 140


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(DataError, match="The built-in digits have no split 'test': choose one of 'train', 'val'"):
        read_digits("test")
    with pytest.raises(DataError, match="need images ≥ 1, size ≥ 64 and seed ≥ 0, not 0, 128 and 0: change the number"):
        read_digits("val", images=0)
    with pytest.raises(DataError, match="not 5, 20 and 0"):
        read_digits("val", images=5, size=20)
