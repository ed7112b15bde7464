"""A run over image files: skipped images, thresholds in words, and runs that are stopped or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from detectors import BrightDetector, make_card
from PIL import Image

from detrkit.cards import ModelCard, Preprocessing
from detrkit.prediction import Outcome, Prediction, Predictor, SlicedPredictor, predict_files
from detrkit.prediction.files_run import threshold_note, thresholds_shown

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Ten pictures, each with a white square."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    paths = [tmp_path / "in" / f"{number}.png" for number in range(1, 11)]
    for path in paths:
        picture = Image.new("RGB", (80, 60))
        picture.paste((255, 255, 255), (20, 10, 40, 30))
        picture.save(path)
    return paths


def found_in(folder: Path) -> list[int]:
    return [entry["image_id"] for entry in json.loads((folder / "detections.json").read_text())]


def test_unreadable_images_are_skipped_and_named(photos: list[Path], tmp_path: Path) -> None:
    photos[3].write_text("not a picture")
    photos[6].unlink()
    outcome = predict_files(Predictor(BrightDetector()), photos, tmp_path / "out")
    assert (outcome.total, outcome.done, outcome.detections, outcome.stopped) == (10, 8, 8, False)
    assert sum(outcome.classes.values()) == 8
    assert found_in(tmp_path / "out") == [1, 2, 3, 5, 6, 8, 9, 10]
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert drawn == {"detections.json", "images.json", *(f"{number}.png" for number in (1, 2, 3, 5, 6, 8, 9, 10))}
    assert len(outcome.problems) == 2
    assert outcome.unreadable() == (
        "2 of 10 images could not be read and were skipped; the results of the other 8 are written. "
        f"The first: {photos[3]} is not a readable image file, whatever its name says: save it as JPEG or PNG, or remove it."
    )


def test_slices_go_through_the_same_run(photos: list[Path], tmp_path: Path) -> None:
    outcome = predict_files(
        SlicedPredictor(Predictor(BrightDetector()), 40), photos, tmp_path / "out", formats=["json"]
    )
    assert (outcome.done, outcome.detections) == (10, 10)
    assert found_in(tmp_path / "out") == list(range(1, 11))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"detections.json", "images.json"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_keeps_what_is_done(photos: list[Path], tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def stop_after_four(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        for place, prediction in enumerate(predictions):
            if place == 4:
                os.kill(os.getpid(), number)
            yield prediction

    predictor = Predictor(BrightDetector())
    outcome = predict_files(predictor, photos, tmp_path / "out", progress=stop_after_four)
    assert (outcome.stopped, outcome.done, outcome.looked_at) == (True, 4, 4)
    assert found_in(tmp_path / "out") == [1, 2, 3, 4]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["1.png", "2.png", "3.png", "4.png"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_stop_never_cuts_a_result_in_half(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detrkit.prediction.result_files import CsvFile

    add = CsvFile.add

    def asked_to_stop(self: CsvFile, result: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        add(self, result)  # type: ignore[arg-type]

    monkeypatch.setattr(CsvFile, "add", asked_to_stop)
    outcome = predict_files(Predictor(BrightDetector()), photos, tmp_path / "out", formats=["csv", "json"])
    assert (outcome.stopped, outcome.done) == (True, 1)
    assert found_in(tmp_path / "out") == [1]
    assert len((tmp_path / "out" / "detections.csv").read_text().splitlines()) == 2


def test_a_killed_process_leaves_valid_files(photos: list[Path], tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from detectors import BrightDetector
from detrkit.prediction import Predictor, predict_files
def slowly(predictions):
    for prediction in predictions:
        yield prediction
        time.sleep(0.2)
paths = sorted(Path("in").iterdir(), key=lambda path: int(path.stem))
predict_files(Predictor(BrightDetector()), paths, Path("out"), formats=["json", "csv", "yolo", "images"], progress=slowly)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, env=environment)
    results = tmp_path / "out" / "detections.json"
    seen = 0
    while seen < 3:
        assert process.poll() is None
        time.sleep(0.01)
        if results.is_file() and results.stat().st_size:
            seen = len(json.loads(results.read_text()))  # valid at every moment
    process.kill()
    process.wait()
    images = found_in(tmp_path / "out")
    assert images == list(range(1, len(images) + 1))
    assert 3 <= len(images) < 10
    lines = (tmp_path / "out" / "detections.csv").read_text().splitlines()
    assert abs(len(lines) - 1 - len(images)) <= 1
    for path in (tmp_path / "out").glob("[!.]*.png"):
        Image.open(path).load()
    assert all(len(path.read_text().split()) == 6 for path in (tmp_path / "out" / "labels").glob("[!.]*.txt"))


def test_the_summary_says_what_was_found_how_fast_and_where() -> None:
    outcome = Outcome(total=12, done=12, detections=37, best_score=0.9, seconds=4.0)
    assert outcome.summary("from score 0.50", [Path("out/detections.json"), Path("out")]) == (
        "37 detections from score 0.50 in 12 images (4.0 s, 3 images/s): see out/detections.json, out"
    )
    outcome.classes.update({"cat": 12, "dog": 25})
    assert outcome.summary("from score 0.50", []) == (
        "37 detections from score 0.50 in 12 images (4.0 s, 3 images/s)\nBy class: dog 25, cat 12"
    )
    outcome.classes.update({f"bird {number:02}": 100 - number for number in range(20)})
    last = outcome.summary("from score 0.50", []).splitlines()[1]
    assert last.startswith("By class: bird 00 100, ")
    assert last.endswith(", bird 11 89 and 10 other classes")

    single = Outcome(total=1, done=1, detections=1, best_score=0.9, seconds=0.5)
    assert single.summary("from score 0.50", [Path("out")]) == (
        "1 detection from score 0.50 in 1 image (0.5 s, 2 images/s): see out"
    )


@pytest.mark.parametrize(("best", "shown"), [(0.3149, "0.31"), (0.002, "0.002")])
def test_where_nothing_is_found_the_highest_score_is_named(best: float, shown: str) -> None:
    outcome = Outcome(total=2, done=2, best_score=best, seconds=1.0)
    assert outcome.summary("from score 0.50", [Path("out")]).splitlines()[1] == (
        f"Nothing reaches the threshold; the highest score is {shown}: --threshold sets a lower one."
    )


def test_unreadable_images_in_words() -> None:
    assert Outcome(total=3, done=3).unreadable() == ""
    assert Outcome(total=1, problems=["a.jpg is damaged."]).unreadable() == "a.jpg is damaged."
    assert Outcome(total=2, problems=["a.jpg is damaged.", "b.jpg is gone."]).unreadable() == (
        "2 of 2 images could not be read and were skipped; nothing was written. The first: a.jpg is damaged."
    )


def test_thresholds_in_words() -> None:
    def shown(threshold: float | None = None, nms: float | None = None, **card: dict[int, float]) -> str:
        return thresholds_shown(Predictor(BrightDetector(threshold=0.4, **card), threshold=threshold, nms=nms))  # type: ignore[arg-type]

    assert shown() == shown(nms=1) == "from score 0.40"
    assert shown(nms=0.7) == "from score 0.40 without repeated ones (NMS 0.7)"
    assert shown(0.25, class_thresholds={0: 0.3}) == "from score 0.25"
    assert shown(class_thresholds={0: 0.3, 1: 0.625}) == "from each class's own score (0.30 to 0.62)"
    assert shown(class_thresholds={0: 0.3}) == "from each class's own score (0.30, 0.40 for other classes)"


def test_a_note_says_that_no_threshold_was_measured() -> None:
    def note(card: ModelCard) -> str:
        return threshold_note(card)

    assert note(make_card(Preprocessing(), 0.5)) == (
        "No threshold was measured for this model, so that of all untrained and published ones applies, 0.50; --threshold sets another."
    )
    assert note(make_card(Preprocessing(), 0.43)) == ""
    assert note(make_card(Preprocessing(), 0.5, {0: 0.3})) == ""
