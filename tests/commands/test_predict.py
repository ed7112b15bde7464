"""`detrkit predict` as a user runs it: what it takes, writes, prints and refuses, and how it stops."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import heed_interrupts

import detrkit
from detrkit.__main__ import main
from detrkit.checkpoints import save


def make_model(threshold: float = 0.5, class_thresholds: dict[int, float] | None = None) -> detrkit.Detector:
    """Untrained, and small enough for quick commands."""
    torch.manual_seed(0)
    model = detrkit.build(
        "detr-compact", classes=["cat", "dog"], preprocessing=detrkit.Preprocessing(64, 64), queries=6, width=32,
        hidden=32, encoder_layers=1, decoder_layers=1,
    )  # fmt: skip
    model.card = dataclasses.replace(model.card, threshold=threshold, class_thresholds=class_thresholds or {})
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_model(), tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with three photos in `photos` and one in `photos/more`."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "c.png", "more/d.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*arguments: object) -> tuple[int, str, str]:
    """The exit code of a command, and what it printed to both streams."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(["predict", *map(str, arguments)])
            code: object = 0
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def refusal(*arguments: object) -> str:
    code, out, err = predict(*arguments)
    assert (code, out) == (2, ""), out + err
    assert err.startswith("detrkit: ")
    assert len(err.strip().splitlines()) == 1
    return err.strip()


def entries(place: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((place / "detections.json").read_text())
    return found


def test_by_default_json_and_images_are_written(checkpoint: Path, folder: Path) -> None:
    code, out, err = predict(checkpoint, "photos", "--threshold", 0)
    assert (code, err) == (0, "")
    assert out.startswith("18 detections from score 0.00 in 3 images (")
    assert " images/s): see predictions/detections.json, predictions\nBy class: dog 18\n" in out
    assert {entry["category_name"] for entry in entries(folder / "predictions")} == {"dog"}
    assert [entry["file_name"] for entry in entries(folder / "predictions")[::6]] == [
        "photos/a.png", "photos/b.jpg", "photos/c.png",
    ]  # fmt: skip
    names = {path.name for path in (folder / "predictions").iterdir()}
    assert names == {"detections.json", "images.json", "a.png", "b.jpg", "c.png"}


def test_all_formats_and_all_ways_to_name_images(checkpoint: Path, folder: Path) -> None:
    (folder / "list.txt").write_text("photos/more/d.png\n")
    code, out, _ = predict(
        checkpoint, "photos/a.png", "photos/[bc].*", "list.txt", "--format", "csv", "yolo", "json", "--threshold", 0,
        "--output", "seen", "--batch-size", 3,
    )  # fmt: skip
    assert code == 0
    assert ": see seen/detections.csv, seen/labels, seen/detections.json\n" in out
    with (folder / "seen" / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows[::6]] == [
        "photos/a.png", "photos/b.jpg", "photos/c.png", "photos/more/d.png",
    ]  # fmt: skip
    assert {row["class"] for row in rows} <= {"cat", "dog"}
    assert [float(row["score"]) for row in rows] == [entry["score"] for entry in entries(folder / "seen")]
    assert (folder / "seen" / "classes.txt").read_text() == "cat\ndog\n"
    assert sorted(path.name for path in (folder / "seen" / "labels").iterdir()) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert len((folder / "seen" / "labels" / "d.txt").read_text().splitlines()) > 0
    assert not list((folder / "seen").glob("*.png"))


def test_folders_inside_and_drawings_of_the_first_run(checkpoint: Path, folder: Path) -> None:
    for _ in range(2):
        code, out, _ = predict(checkpoint, ".", "--recursive", "--threshold", 0)
        assert code == 0
        assert "24 detections from score 0.00 in 4 images" in out
    assert (
        "Note: There are results of an earlier run (predictions/detections.json, 4 pictures with boxes); files of the same names are replaced.\n"
        "24 detections"
    ) in out  # before the work
    assert "Note: 4 of 8 images lie in predictions, the folder for the results, and were left out" in out


def test_unreadable_images_are_skipped_and_named_with_code_2(checkpoint: Path, folder: Path) -> None:
    (folder / "photos" / "b.jpg").write_text("hello")
    code, out, err = predict(checkpoint, "photos", "--threshold", 0)
    assert code == 2
    reason = "photos/b.jpg is not a readable image file, whatever its name says: save it as JPEG or PNG, or remove it."
    assert out.splitlines()[0] == f"Skipped: {reason}"
    assert "12 detections from score 0.00 in 2 images" in out.splitlines()[1]
    assert err == (
        "detrkit: 1 of 3 images could not be read and was skipped; the results of the other 2 are written. "
        f"The first: {reason}\n"
    )
    assert {entry["image_id"] for entry in entries(folder / "predictions")} == {1, 3}
    before = (folder / "predictions" / "detections.json").read_bytes()
    code, out, err = predict(checkpoint, "photos/b.jpg")
    assert (code, err) == (2, f"detrkit: {reason}\n")
    assert out.startswith("Note: There are results of an earlier run")
    assert (folder / "predictions" / "detections.json").read_bytes() == before


def test_slices(checkpoint: Path, folder: Path) -> None:
    options = ("--threshold", 0, "--format", "json")
    code, out, _ = predict(checkpoint, "photos/a.png", *options, "--slice", 32, "--overlap", 0, "--merge", "nmm")
    assert code == 0
    assert "in 1 image" in out
    whole = detrkit.Predictor(detrkit.load(checkpoint), threshold=0)
    from detrkit.prediction import SlicedPredictor

    expected = SlicedPredictor(whole, 32, overlap=0, merge="nmm")("photos/a.png")
    assert [entry["score"] for entry in entries(folder / "predictions")] == pytest.approx(expected.confidence.tolist())
    assert len(expected) != len(whole("photos/a.png"))
    for option in (("--overlap", 0.1), ("--merge", "nmm")):
        assert refusal(checkpoint, "photos/a.png", *option) == (
            "detrkit: --overlap and --merge are about slices: add --slice with their size in pixels"
        )
    assert "A slice of 0 pixels is too small" in refusal(checkpoint, "photos/a.png", "--slice", 0)


def test_json_alone_on_standard_output(checkpoint: Path, folder: Path) -> None:
    (folder / "photos" / "b.jpg").write_text("hello")
    code, out, err = predict(checkpoint.parent, "photos", "--threshold", 0, "--json", "-")
    assert code == 2
    found = json.loads(out)
    assert [entry["file_name"] for entry in found[::6]] == ["photos/a.png", "photos/c.png"]
    assert {entry["category_name"] for entry in found} == {"dog"}
    assert "12 detections from score 0.00 in 2 images" in err
    assert "Skipped: photos/b.jpg" in err
    assert not (folder / "predictions").exists()
    code, out, _ = predict(checkpoint, "photos/a.png", "--threshold", 0, "--json", "-", "--crops")
    assert (code, len(json.loads(out))) == (0, 6)
    assert {path.parent.name for path in (folder / "predictions").rglob("*.png")} == {"dog"}
    assert not (folder / "predictions" / "detections.json").exists()


def test_chosen_classes(checkpoint: Path, folder: Path) -> None:
    for names, number in ((("cat",), 0), (("cat", "Dog"), 18)):
        _, out, _ = predict(checkpoint, "photos", "--threshold", 0, "--classes", *names)
        assert f"{number} detections from score 0.00 in 3 images" in out
    listed = json.loads((folder / "predictions" / "images.json").read_text())
    assert [image["detections"] for image in listed["images"]] == [6, 6, 6]


def test_suppression_as_given_or_as_stored(folder: Path) -> None:
    model = make_model(0.0)
    model.card = dataclasses.replace(model.card, nms=0.01)
    save(model, "own.safetensors")
    _, out, _ = predict("own.safetensors", "photos")
    assert "detections from score 0.00 without repeated ones (NMS 0.01) in 3 images" in out
    assert not out.startswith("18 ")
    assert predict("own.safetensors", "photos", "--nms", 1, "--output", "all")[1].startswith(
        "18 detections from score 0.00 in"
    )


def test_the_usage_names_what_to_give() -> None:
    assert predict("--help")[1].splitlines()[0] == "Usage: detrkit predict [OPTIONS] CHECKPOINT IMAGES..."


def test_which_thresholds_applied(folder: Path) -> None:
    # The model takes everything for a dog.
    for thresholds, found in (({0: 0.999, 1: 0.0}, 18), ({0: 0.0, 1: 0.999}, 0)):
        save(make_model(0.0, thresholds), "own.safetensors")
        _, out, _ = predict("own.safetensors", "photos", "--output", found)
        assert out.startswith(f"{found} detections from each class's own score (0.00 to 1.00) in 3 images")
    _, out, _ = predict("own.safetensors", "photos", "--threshold", 0, "--output", "given")
    assert out.startswith("18 detections from score 0.00")
    assert {entry["category_id"] for entry in entries(folder / "given")} == {1}
    save(make_model(0.999), "measured.safetensors")
    _, out, _ = predict("measured.safetensors", "photos", "--output", "measured")
    assert out.startswith("0 detections from score 1.00 in 3 images")
    assert "\nNothing reaches the threshold; the highest score is 0." in out
    assert out.endswith(": --threshold sets a lower one.\n")


def test_a_threshold_that_nobody_measured_is_noted(checkpoint: Path, folder: Path) -> None:
    _, out, _ = predict(checkpoint, "photos")
    assert out.startswith(
        "Note: No threshold was measured for this model, so that of all untrained and published ones applies, 0.50; --threshold sets another.\n"
    )
    assert "No threshold" not in predict(checkpoint, "photos", "--threshold", 0.5, "--output", "given")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "xml"), "--format"),
        (("--batch-size", 0), "The batch size 0 is too small"),
        (("--threshold", 2), "The threshold 2.0 is not a score"),
        (("--merge", "wbf"), "--merge"),
        (("--nms", 0), "The NMS value 0 is no IoU for suppression"),
        (("--json", "file.json"), "--json"),
        (("--classes", "dgo"), "The model knows no class 'dgo': did you mean 'dog'?"),
        (("nowhere",), "nowhere does not exist"),
        (("--output", "photos"), "photos contains the input images, which would be overwritten: choose another --output"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(checkpoint: Path, folder: Path, arguments: tuple[object, ...], words: str) -> None:
    assert words in refusal(checkpoint, "photos", *arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_far_it_came(checkpoint: Path, folder: Path, number: signal.Signals) -> None:
    (folder / "many").mkdir()
    for place in range(3000):
        os.link(folder / "photos" / "a.png", folder / "many" / f"{place}.png")
    command = [
        sys.executable,
        "-m",
        "detrkit",
        "predict",
        str(checkpoint),
        "many",
        "--threshold",
        "0",
        "--format",
        "json",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    results = folder / "predictions" / "detections.json"
    while not (results.is_file() and results.stat().st_size > 100):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate()
    found = entries(folder / "predictions")
    images = len({entry["image_id"] for entry in found})
    assert process.returncode == 130
    assert 0 < images < 3000
    assert len(found) == 6 * images
    assert err.strip().splitlines()[-1] == f"stopped after {images} of 3000 images"
    assert out.startswith(f"{6 * images} detections from score 0.00 in {images} image")


def yolo_data(folder: Path) -> tuple[Path, dict[Path, bytes]]:
    """A data set of a user's own, and the contents of all its files."""
    data = folder / "set"
    (data / "labels").mkdir(parents=True)
    (folder / "photos").rename(data / "images")
    for name in "abc":
        (data / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (data / "classes.txt").write_text("mouse\n")
    return data, {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}


def test_annotations_of_the_user_are_kept(checkpoint: Path, folder: Path) -> None:
    data, before = yolo_data(folder)
    assert refusal(checkpoint, "set/images", "--output", "set", "--format", "json", "yolo") == (
        "detrkit: set/labels contains what detrkit did not write, such as set/labels/a.txt, which would be overwritten or mixed with results: "
        "choose another --output"
    )
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for name in "abc":
        (data / "labels" / f"{name}.txt").unlink()
    assert refusal(checkpoint, "set/images", "--output", "set", "--format", "yolo") == (
        "detrkit: set/classes.txt was not written by detrkit and would be overwritten: choose another --output"
    )


def test_a_picture_beside_the_pictures_folder_is_kept(checkpoint: Path, folder: Path) -> None:
    (folder / "photos" / "more" / "d.png").rename(folder / "photos" / "more" / "a.png")
    before = (folder / "photos" / "a.png").read_bytes()
    assert refusal(checkpoint, "photos/more", "--output", "photos") == (
        "detrkit: photos/a.png was not drawn by detrkit and would be overwritten by the drawing of photos/more/a.png: choose another --output"
    )
    assert (folder / "photos" / "a.png").read_bytes() == before


@pytest.mark.parametrize("threshold", [0, 1])
def test_results_are_replaced_by_those_of_a_second_run(checkpoint: Path, folder: Path, threshold: float) -> None:
    formats = ("--format", "json", "csv", "yolo", "images")
    for second in (threshold, 0):
        assert predict(checkpoint, "photos", "--threshold", second, *formats)[0] == 0
    assert [len((folder / f"predictions/labels/{name}.txt").read_text().splitlines()) for name in "abc"] == [6, 6, 6]


@pytest.mark.parametrize("format_", ["json", "csv", "yolo"])
def test_results_may_lie_beside_the_images(checkpoint: Path, folder: Path, format_: str) -> None:
    before = {path: path.read_bytes() for path in (folder / "photos").iterdir() if path.is_file()}
    code, out, err = predict(checkpoint, "photos", "--output", "photos", "--format", format_, "--threshold", 0)
    assert (code, err) == (0, "")
    assert "18 detections from score 0.00 in 3 images" in out
    assert before == {path: path.read_bytes() for path in before}
    assert refusal(checkpoint, "photos", "--output", "photos", "--format", format_, "images") == (
        "detrkit: photos contains the input images, which would be overwritten: choose another --output"
    )


def test_two_stars_inside_a_name(checkpoint: Path, folder: Path) -> None:
    assert f"The pattern '{folder}/photos/a**.png' has '**' inside a name" in refusal(
        checkpoint, f"{folder}/photos/a**.png"
    )


def make_panoptic_model() -> detrkit.Detector:
    torch.manual_seed(0)
    classes = [detrkit.Category(3, "cat", 0), detrkit.Category(120, "sky", 1, thing=False)]
    return detrkit.build(
        "detr-compact-panoptic", classes=classes, preprocessing=detrkit.Preprocessing(64, 64), queries=6
    )


def test_a_panoptic_model_writes_masks_and_segments(folder: Path) -> None:
    save(make_panoptic_model(), folder / "panoptic.safetensors")
    code, out, err = predict("panoptic.safetensors", "photos/a.png", "--threshold", 0)
    assert code == 0, err
    assert "predictions/panoptic.json" in out
    content = json.loads((folder / "predictions/panoptic.json").read_text())
    assert [(each["name"], each["isthing"]) for each in content["categories"]] == [("cat", 1), ("sky", 0)]
    assert content["annotations"][0]["file_name"] == "a.png"
    assert Image.open(folder / "predictions/panoptic/a.png").size == (64, 48)
    assert all(dict(entry["segmentation"])["size"] == [48, 64] for entry in entries(folder / "predictions"))  # type: ignore[call-overload]
    _, out, _ = predict("panoptic.safetensors", "photos/a.png", "--format", "json")
    assert "panoptic.json" not in out


def test_panoptic_results_are_refused_where_there_are_none(checkpoint: Path, folder: Path) -> None:
    message = refusal(checkpoint, "photos/a.png", "--format", "panoptic")
    assert (
        "--format panoptic needs a model that finds things and stuff with masks, and detr-compact does not" in message
    )
    save(make_panoptic_model(), folder / "panoptic.safetensors")
    message = refusal("panoptic.safetensors", "photos/a.png", "--format", "panoptic", "--slice", 64)
    assert "--slice gives boxes alone" in message
