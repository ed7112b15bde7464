"""A stream gives what calls give, in order, with few pictures in memory, and says which pictures cannot be read."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectors import BrightDetector
from PIL import Image

from detrkit.errors import DataError, NonFiniteError
from detrkit.prediction import Predictor, SlicedPredictor
from detrkit.structures import ImageBatch, Output

SIZES = [(40, 20), (30, 30), (80, 40), (60, 60), (40, 20), (10, 10), (20, 40)]


def spotted(width: int, height: int, box: tuple[int, int, int, int] | None = None) -> Image.Image:
    """A black picture with a white rectangle in its second quarter, or elsewhere."""
    picture = Image.new("RGB", (width, height))
    picture.paste((255, 255, 255), box or (width // 4, height // 4, width // 2, height // 2))
    return picture


@pytest.fixture(params=[1, 2], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """PyTorch's threads; with two, the model works on two pictures at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
def test_results_are_those_of_calls_in_the_same_order(batch_size: int, tmp_path: Path) -> None:
    pictures = [spotted(*size) for size in SIZES]
    pictures[2].save(tmp_path / "third.png")
    expected = Predictor(BrightDetector())(list(pictures))
    given = [*pictures[:2], tmp_path / "third.png", *pictures[3:]]
    found = list(Predictor(BrightDetector(), batch_size=batch_size).stream(iter(given)))
    assert [each.source for each in found] == given
    for each, picture, detections in zip(found, pictures, expected, strict=True):
        assert each.picture is not None
        assert each.detections is not None
        assert each.picture.tobytes() == picture.tobytes()
        np.testing.assert_array_equal(each.detections.xyxy, detections.xyxy)
        np.testing.assert_array_equal(each.detections.confidence, detections.confidence)
        assert each.best_score == max(np.asarray(detections.confidence)) > 0.2
        assert each.problem is None


def test_pictures_of_equal_size_share_batches(threads: int) -> None:
    model = BrightDetector()
    list(Predictor(model, batch_size=2).stream([spotted(*size) for size in SIZES]))
    seen = [tuple(batch.pixels.shape) for batch in model.seen]
    # Two batches are looked through: the third wide picture comes too late for the first two.
    expected = [(2, 3, 64, 128), (2, 3, 64, 64), (1, 3, 64, 128), (1, 3, 64, 64), (1, 3, 128, 64)]
    assert seen == expected if threads == 1 else sorted(seen) == sorted(expected)


class _Meeting(BrightDetector):
    """Lets nobody through who comes alone."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(parties, timeout=60)
        self.of_torch: set[int] = set()

    def forward(self, batch: ImageBatch, targets: object = None) -> Output:
        self.of_torch.add(torch.get_num_threads())
        self.barrier.wait()
        return super().forward(batch, targets)


def test_as_many_pictures_at_once_as_there_are_threads(threads: int) -> None:
    model = _Meeting(parties=threads)
    assert len(list(Predictor(model).stream(spotted(20, 20) for _ in range(8)))) == 8
    assert model.of_torch == {1}


def test_autocast_reaches_the_model() -> None:
    model = _Meeting(parties=1)
    enabled: list[bool] = []
    model.register_forward_pre_hook(lambda *_: enabled.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        list(Predictor(model).stream([spotted(20, 20)] * 2))
    assert enabled == [True, True]


def test_few_pictures_are_taken_ahead(threads: int) -> None:
    taken: list[int] = []

    def photos() -> Iterator[Image.Image]:
        for number in range(100):
            taken.append(number)
            yield spotted(20, 20)

    predictions = Predictor(BrightDetector()).stream(photos())
    next(predictions)
    assert len(taken) == 2 + threads
    next(predictions)
    assert len(taken) == 3 + threads
    predictions.close()
    assert len(taken) == 3 + threads
    taken.clear()
    predictions = Predictor(BrightDetector(), batch_size=4).stream(photos())
    next(predictions)
    assert len(taken) == 4 * (1 + threads)
    predictions.close()


def test_closing_a_stream_ends_its_threads(threads: int) -> None:
    before = set(threading.enumerate())
    predictions = Predictor(BrightDetector()).stream(spotted(20, 20) for _ in range(50))
    next(predictions)
    assert {thread.name.split("_")[0] for thread in set(threading.enumerate()) - before} == (
        {"read"} if threads == 1 else {"read", "detect"}
    )
    predictions.close()
    assert set(threading.enumerate()) <= before


def test_an_unreadable_picture_is_named_at_its_turn(tmp_path: Path) -> None:
    (tmp_path / "note.jpg").write_text("hello")
    given = [spotted(20, 20), tmp_path / "note.jpg", spotted(20, 20), tmp_path / "gone.jpg"]
    for batch_size in (1, 2):
        found = list(Predictor(BrightDetector(), batch_size=batch_size).stream(given, skip_unreadable=True))
        assert [each.detections is None for each in found] == [False, True, False, True]
        assert [each.source for each in found] == given
        assert "note.jpg is not a readable image file" in str(found[1].problem)
        assert "gone.jpg does not exist" in str(found[3].problem)
    predictions = Predictor(BrightDetector(), batch_size=3).stream(given)
    assert next(predictions).detections is not None
    with pytest.raises(DataError, match=r"note\.jpg is not a readable image file"):
        next(predictions)


def test_errors_of_the_model_and_of_the_source_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model = BrightDetector()
    monkeypatch.setattr(model, "_look", lambda bright: (torch.full((3,), math.nan), torch.full((4,), 0.5)))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        list(Predictor(model).stream([spotted(20, 20)]))

    def broken() -> Iterator[Image.Image]:
        yield spotted(20, 20)
        raise NonFiniteError("the camera is gone")

    with pytest.raises(NonFiniteError, match="the camera is gone"):
        list(Predictor(BrightDetector()).stream(broken()))


def test_nothing_at_all() -> None:
    assert list(Predictor(BrightDetector()).stream([])) == []


def test_sixteen_bits_are_stretched_on_request(tmp_path: Path) -> None:
    values = np.full((20, 20), 1000, dtype=np.uint16)
    values[5:10, 5:10] = 4000
    Image.fromarray(values).save(tmp_path / "deep.png")
    [plain] = Predictor(BrightDetector()).stream([tmp_path / "deep.png"])
    [stretched] = Predictor(BrightDetector(), stretch_16bit=True).stream([tmp_path / "deep.png"])
    assert plain.detections is not None
    assert stretched.detections is not None
    assert len(plain.detections) == 0
    np.testing.assert_allclose(stretched.detections.xyxy, [[5, 5, 10, 10]], atol=0.5)
    assert plain.best_score == pytest.approx(0.01)


SINGLE = [
    ("photo.jpg", "photo.jpg"),
    (Path("photo.jpg"), "photo.jpg"),
    (Image.new("RGB", (4, 4)), "of type Image"),
    (np.zeros((4, 4, 3), dtype=np.uint8), "of type ndarray"),
    (np.zeros((4, 4), dtype=np.uint8), "of type ndarray"),
    (torch.zeros((3, 4, 4), dtype=torch.uint8), "of type Tensor"),
]


@pytest.mark.parametrize(("picture", "named"), SINGLE)
def test_a_single_picture_is_refused(picture: Any, named: str) -> None:
    predictor = Predictor(BrightDetector())
    for call in (predictor.stream, SlicedPredictor(predictor, 64).stream, predictor.raw):
        with pytest.raises(DataError) as caught:
            call(picture)  # at once, not when the first prediction is asked for
        assert str(caught.value) == (
            f"A single picture ({named}) was given in place of several: give a list, such as [picture]."
        )


def test_an_array_of_several_pictures_is_a_stream() -> None:
    pictures = np.stack([np.asarray(spotted(40, 20))] * 2)
    found = list(Predictor(BrightDetector()).stream(pictures))
    assert [each.best_score > 0.2 for each in found] == [True, True]
