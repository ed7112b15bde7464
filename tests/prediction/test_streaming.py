"""A stream gives what calls give, in order, with few pictures in memory, and says which pictures cannot be read."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from detectors import BrightDetector
from PIL import Image

from detrkit.errors import DataError, NonFiniteError
from detrkit.prediction import Predictor, SlicedPredictor
from detrkit.prediction.streaming import Found, stream
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
    assert in_a_new_thread(torch.get_num_threads) == request.param
    torch.set_num_threads(before)


def in_a_new_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


class _Quick:
    """Reads and looks at numbers; a picture's shape is its number's remainder by three."""

    batch_size, may_run_in_threads = 1, True

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size, self.groups = batch_size, list[int]()

    def prepare(self, image: Any) -> Any:
        return SimpleNamespace(picture=image, shape=(image % 3,))

    def detect(self, group: Any) -> list[Any]:
        self.groups.append(len(group))
        assert len({each.shape for each in group}) == 1
        return [Found(each.picture, float(each.picture)) for each in group]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_long_streams_come_to_their_end_in_order(batch_size: int) -> None:
    for _ in range(100):
        found = list(stream(_Quick(batch_size), iter(range(100)), skip_unreadable=False))  # type: ignore[arg-type]  # numbers
        assert [each.best_score for each in found] == list(range(100))


def test_batches_stay_full_in_long_streams() -> None:
    predictor = _Quick(batch_size=4)
    list(stream(predictor, iter(range(0, 300, 3)), skip_unreadable=False))  # type: ignore[arg-type]
    assert predictor.groups == [4] * 25


@pytest.mark.parametrize("error", [NonFiniteError("NaN"), SystemExit(3), ValueError("no")], ids=repr)
def test_an_error_of_the_model_comes_at_its_picture(error: BaseException) -> None:
    class Failing(_Quick):
        def detect(self, group: Any) -> list[Any]:
            if group[0].picture == 5:
                raise error
            return super().detect(group)

    predictions = stream(Failing(), iter(range(20)), skip_unreadable=False)  # type: ignore[arg-type]
    assert [next(predictions).best_score for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(type(error)) as caught:
        next(predictions)
    assert caught.value is error


def test_a_model_that_loses_results_is_an_error() -> None:
    class Losing(_Quick):
        def detect(self, group: Any) -> list[Any]:
            return super().detect(group)[:-1]

    with pytest.raises(ValueError, match="shorter"):
        list(stream(Losing(), iter(range(3)), skip_unreadable=False))  # type: ignore[arg-type]


def test_an_error_of_the_source_comes_after_the_pictures_before_it() -> None:
    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("the camera is gone")

    predictions = stream(_Quick(), broken(), skip_unreadable=False)  # type: ignore[arg-type]
    assert [next(predictions).best_score for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the camera is gone"):
        next(predictions)


def test_streams_in_several_threads(threads: int) -> None:
    """Each has as many threads as the first, and leaves as many to threads that begin meanwhile."""
    counts = set()

    class Counting(_Quick):
        def detect(self, group: Any) -> list[Any]:
            counts.add(torch.get_num_threads())
            return super().detect(group)

    def run() -> list[float]:
        return [each.best_score for each in stream(Counting(), iter(range(50)), skip_unreadable=False)]  # type: ignore[arg-type]

    predictions = stream(Counting(), iter(range(50)), skip_unreadable=False)  # type: ignore[arg-type]
    next(predictions)
    assert in_a_new_thread(torch.get_num_threads) == threads
    with ThreadPoolExecutor(3) as pool:
        assert [each.result() for each in [pool.submit(run) for _ in range(3)]] == [list(range(50))] * 3
    predictions.close()
    assert counts == {1}


def test_threads_are_shared_out_to_pictures() -> None:
    counts = []

    class Counting(_Quick):
        def detect(self, group: Any) -> list[Any]:
            barrier.wait()
            counts.append(torch.get_num_threads())
            return super().detect(group)

    torch_threads = torch.get_num_threads()
    for number, wanted in ((3, [1, 1, 1]), (6, [1, 1, 2, 2]), (8, [2, 2, 2, 2])):
        torch.set_num_threads(number)
        counts.clear()
        barrier = threading.Barrier(len(wanted), timeout=60)
        list(stream(Counting(), iter(range(len(wanted))), skip_unreadable=False))  # type: ignore[arg-type]
        assert sorted(counts) == wanted
    torch.set_num_threads(torch_threads)


def test_what_the_caller_chose_holds_in_other_threads() -> None:
    chosen: ContextVar[str] = ContextVar("chosen", default="nothing")
    seen: list[str] = []

    class Looking(_Quick):
        def detect(self, group: Any) -> list[Any]:
            seen.append(chosen.get())
            return super().detect(group)

    token = chosen.set("something")
    try:
        results = list(stream(Looking(), iter(range(6)), skip_unreadable=False))  # type: ignore[arg-type]
    finally:
        chosen.reset(token)
    assert len(results) == 6
    assert set(seen) == {"something"}


def test_compiled_models_stay_in_the_thread_of_the_caller() -> None:
    whole, part = BrightDetector(), BrightDetector()
    assert Predictor(whole).may_run_in_threads
    whole.compile(backend="eager")
    part.backbone = torch.compile(part.backbone, backend="eager")
    for model in (whole, part, torch.compile(BrightDetector(), backend="eager")):
        assert not Predictor(model).may_run_in_threads


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


def test_a_prediction_shows_itself_in_one_line_and_as_a_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (80, 60))
    picture.paste((255, 255, 255), (20, 10, 40, 30))
    picture.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("hello")
    good, bad = Predictor(BrightDetector()).stream([tmp_path / "a.png", tmp_path / "b.png"], skip_unreadable=True)
    assert repr(good) == f"Prediction({tmp_path / 'a.png'}, 1 detection, best score {good.best_score:.2f})"
    assert good.plot().size == (80, 60)
    assert not np.array_equal(np.asarray(good.plot()), np.asarray(picture))
    content = good._repr_jpeg_()
    assert content is not None
    assert Image.open(io.BytesIO(content)).size == (
        480,
        360,
    )  # labels can be read, and large photos do not fill the notebook
    assert repr(good.detections) == f"<PictureDetections 1 detection: car {good.best_score:.2f}>"
    assert repr(bad) == f"Prediction({tmp_path / 'b.png'}, not read: {bad.problem})"
    assert bad._repr_jpeg_() is None
    with pytest.raises(DataError, match="is not a readable image file"):
        bad.plot()
