"""`detrkit evaluate`: figures of models and of result files, the files that it writes, and options that do not go together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands.running import detrkit_command, refusal
from panoptic_cases import CATEGORIES, DOG, SKY, row, segmentation

import detrkit
from detrkit.prediction import write_panoptic


def test_results_have_the_ids_of_the_annotation_file(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    for entry in content["images"]:
        entry["id"] = f"picture {entry['id']}"
    for entry in content["annotations"]:
        entry |= {"image_id": f"picture {entry['image_id']}", "category_id": f"digit {entry['category_id']}"}
    for entry in content["categories"]:
        entry["id"] = f"digit {entry['id']}"
    truth.write_text(json.dumps(content))
    files = ("--output", "figures.json", "--results", "results.json")
    evaluated = detrkit_command("evaluate", checkpoint, "--data", data, *files, folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    entries = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {entry["id"] for entry in content["images"]}
    assert {entry["category_id"] for entry in entries} <= {entry["id"] for entry in content["categories"]}
    again = detrkit_command("evaluate", "results.json", "--data", truth, "--output", "again.json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    figures = [json.loads((tmp_path / name).read_text())["figures"] for name in ("figures.json", "again.json")]
    assert figures[1] == pytest.approx(figures[0], abs=1e-6)


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_results_are_compared_with_a_folder(form: str, data: Path, checkpoint: Path, tmp_path: Path) -> None:
    converted = detrkit_command("convert", data, "--to", form, "--output", "set", folder=tmp_path)
    assert converted.returncode == 0, converted.stderr
    evaluated = detrkit_command(
        "evaluate",
        checkpoint,
        "--data",
        "set",
        "--output",
        "figures.json",
        "--results",
        "results.json",
        folder=tmp_path,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    again = detrkit_command("evaluate", "results.json", "--data", "set", "--output", "again.json", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "set val" in again.stdout
    figures = [json.loads((tmp_path / name).read_text()) for name in ("figures.json", "again.json")]
    assert figures[1]["figures"] == pytest.approx(figures[0]["figures"], abs=1e-6)
    assert figures[1]["images"] == figures[0]["images"]
    other = detrkit_command("evaluate", "results.json", "--data", "set", "--split", "test", folder=tmp_path)
    assert (other.returncode, "set has no split 'test'" in other.stderr) == (2, True)


def test_results_with_ids_that_are_texts_are_compared_with_a_folder(data: Path, tmp_path: Path) -> None:
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    for entry in (*content["images"], *content["categories"]):
        entry["id"] = f"number {entry['id']}"
    for entry in content["annotations"]:
        entry |= {key: f"number {entry[key]}" for key in ("image_id", "category_id")}
    truth.write_text(json.dumps(content))
    results = [
        {key: entry[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for entry in content["annotations"]
    ]
    (tmp_path / "found.json").write_text(json.dumps(results))
    for place, output in ((data, "folder.json"), (truth, "file.json")):
        done = detrkit_command("evaluate", "found.json", "--data", place, "--output", output, folder=tmp_path)
        assert done.returncode == 0, done.stderr
    figures = [json.loads((tmp_path / name).read_text())["figures"] for name in ("folder.json", "file.json")]
    assert figures[0] == figures[1]
    assert figures[0]["AP"] == pytest.approx(1.0)


def test_evaluate_a_result_file_of_real_detections(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "evaluator"
    result = detrkit_command(
        "evaluate", folder / "instances_val2014_fakebbox100_results.json", "--data", folder / "instances_val2014_100.json",
        "--output", "figures.json", folder=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    expected = json.loads((folder / "expected.json").read_text())["bbox"]
    expected = list(expected.values()) if isinstance(expected, dict) else expected
    assert list(figures.values()) == pytest.approx(expected, abs=1e-6)


def test_evaluate_says_more_than_figures(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    results = shared / "data/evaluator/coco_val_detections_yolox_nano.json"
    truth = shared / "data/coco/annotations/instances_val.json"
    files = ("--output", "figures.json", "--report", "report.html")
    shown = detrkit_command("evaluate", results, "--data", truth, "--max-detections", 300, *files, folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for words in (
        "recall, 300 detections of each class",
        "bootstrap over images",
        "duplicate",
        "images with 0 to 3 objects",
    ):
        assert words in shown.stdout
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["figures"]["AR300"] == pytest.approx(content["figures"]["AR10"], abs=0.1)
    analysis = content["analysis"]
    assert analysis["errors"]["counts"]["place"] == 136
    assert content["class_thresholds"] == {
        str(entry["id"]): entry["threshold"] for entry in analysis["classes"] if entry["own"]
    }
    assert "AR300" in (tmp_path / "report.html").read_text()


def test_files_are_written_before_the_table(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("the pipe is closed")

    monkeypatch.setattr("detrkit.evaluation.tables.detailed_table", closed)
    folder = shared / "data" / "evaluator"
    results, truth = folder / "instances_val2014_fakebbox100_results.json", folder / "instances_val2014_100.json"
    files = ("--output", "figures.json", "--report", "report.html")
    with pytest.raises(RuntimeError, match="the pipe is closed"):
        detrkit_command("evaluate", results, "--data", truth, *files, folder=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json", "report.html"}


def test_thresholds_are_stored(checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = shutil.copy(checkpoint, tmp_path / "own.safetensors")
    before = detrkit.load(own)

    def perfect(_: object, dataset: detrkit.DetectionDataset, **__: object) -> list[dict[str, object]]:
        kept = ("image_id", "category_id", "bbox")
        return [{key: entry[key] for key in kept} | {"score": 0.25} for entry in dataset.to_coco()["annotations"]]

    with monkeypatch.context() as patch:
        patch.setattr("detrkit.evaluation.detect", perfect)
        shown = detrkit_command("evaluate", own, "--data", data, "--store-thresholds", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert (
        f"Stored in {own}: the threshold 0.250, thresholds of their own for 0 classes, and no NMS value."
        in shown.stdout
    )
    after = detrkit.load(own)
    assert after.card == dataclasses.replace(before.card, threshold=0.25, class_thresholds={})
    weights, others = before.state_dict(), after.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)

    with monkeypatch.context() as patch:
        patch.setattr("detrkit.evaluation.detect", lambda *_, **__: [])
        shown = detrkit_command("evaluate", own, "--data", data, "--store-thresholds", folder=tmp_path)
    assert f"Note: no detection is correct, so the thresholds in {own} stay as they were." in shown.stdout
    assert detrkit.load(own).card == after.card


def test_thresholds_are_stored_in_nothing_else(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    torch.save({"model": detrkit.load(checkpoint).state_dict()}, tmp_path / "model.pth")
    before = (tmp_path / "model.pth").read_bytes()
    sentence = refusal("evaluate", "model.pth", "--data", data, "--store-thresholds", folder=tmp_path)
    assert "model.pth is not a checkpoint of detrkit, so thresholds cannot be stored in it" in sentence
    assert (tmp_path / "model.pth").read_bytes() == before
    (tmp_path / "results.json").write_text("[]")
    truth = data / "annotations" / "instances_val.json"
    sentence = refusal("evaluate", "results.json", "--data", truth, "--store-thresholds", folder=tmp_path)
    assert sentence == "detrkit: --store-thresholds needs a checkpoint of detrkit, and results.json is a result file"


def test_a_number_of_detections_that_counts_nothing(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    sentence = refusal("evaluate", checkpoint, "--data", data, "--max-detections", 0, folder=tmp_path)
    assert (
        sentence == "detrkit: 0 detections per image count nothing: choose at least 1 (COCO counts 100 of each class)"
    )


@pytest.mark.parametrize(
    ("option", "number", "least"), [("--batch-size", 0, 1), ("--batch-size", -2, 1), ("--workers", -1, 0)]
)
def test_impossible_numbers_are_refused_before_anything_is_read(
    option: str, number: int, least: int, tmp_path: Path
) -> None:
    sentence = refusal(
        "evaluate", "none.pth", "--data", "nowhere", option, number, "--report", "a/b.html", folder=tmp_path
    )
    assert sentence == f"detrkit: {option} must be at least {least}, not {number}"
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_other_classes_is_refused_before_the_work(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    for entry in content["categories"]:
        entry["name"] = f"cell {entry['name']}"
    truth.write_text(json.dumps(content))
    files = ("--output", "new/figures.json", "--charts", "charts")
    sentence = refusal("evaluate", checkpoint, "--data", data, *files, folder=tmp_path)
    assert sentence.startswith(
        "detrkit: The model's classes (0, 1, 2, 3, 4 and 5 more) are not those of data val (cell 0, cell 1"
    )
    assert "--match-by id" in sentence
    assert not {"new", "charts"} & {path.name for path in tmp_path.iterdir()}
    done = detrkit_command("evaluate", checkpoint, "--data", data, *files, "--match-by", "id", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Classes were matched by id: 'cell 0' is the model's '0'" in " ".join(done.stdout.split())
    assert done.stdout.splitlines()[-1] == "Note: created the folders new, charts."
    assert json.loads((tmp_path / "new" / "figures.json").read_text())["objects"] == len(content["annotations"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--match-by", "id"), "--match-by needs a checkpoint, and results.json is a result file: leave it out"),
        (("--variant", "detr-r50"), "--variant needs a checkpoint, and results.json is a result file: leave it out"),
        (("--nms", 0.7), "--nms needs a checkpoint, and results.json is a result file: leave it out"),
        (("--device", "auto"), "--device needs a checkpoint, and results.json is a result file: leave it out"),
        (("--workers", 0, "--batch-size", 1), "--batch-size, --workers need a checkpoint, and results.json is a result file: leave them out"),
    ],
)  # fmt: skip
def test_options_for_checkpoints_are_refused_for_result_files(
    options: tuple[object, ...], words: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text("[]")
    assert refusal("evaluate", "results.json", "--data", data, *options, folder=tmp_path) == f"detrkit: {words}"


def test_what_is_needed_is_named(tmp_path: Path) -> None:
    assert refusal("evaluate", "best.safetensors", folder=tmp_path) == (
        "detrkit: `detrkit evaluate` needs --data: `detrkit evaluate --help` tells what to give"
    )
    assert "`detrkit evaluate` needs CHECKPOINT" in refusal("evaluate", folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--split", "val"), "--split needs"),
        (("--orientation", "auto"), "--orientation needs"),
        (("--stretch-16bit", "--split", "train"), "--split, --stretch-16bit need"),
    ],
)
def test_options_for_pictures_are_refused_for_annotation_files(
    options: tuple[object, ...], words: str, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text("[]")
    annotations = data / "annotations" / "instances_val.json"
    them = "it" if len(options) == 2 else "them"
    assert refusal("evaluate", "results.json", "--data", annotations, *options, folder=tmp_path) == (
        f"detrkit: {words} a data set with pictures, and {annotations} is an annotation file, taken as a whole: leave {them} out"
    )


def test_files_of_an_evaluation_are_checked_before_it(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*_: object, **__: object) -> None:
        raise AssertionError("the evaluation has begun")

    monkeypatch.setattr("detrkit.evaluation.detect", compute)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for option in ("--output", "--results", "--report"):
        assert refusal("evaluate", checkpoint, "--data", data, option, "folder", folder=tmp_path) == (
            "detrkit: folder is a folder, and a file is to be written: name a file, such as one in this folder"
        )
    assert "the folder file cannot be written to" in refusal(
        "evaluate", checkpoint, "--data", data, "--charts", "file", folder=tmp_path
    )
    own = shutil.copy(checkpoint, tmp_path / "own.safetensors")
    assert refusal("evaluate", own, "--data", data, "--output", own, folder=tmp_path) == (
        f"detrkit: --output {own} would overwrite what is read: choose another file"
    )
    assert "the folder file cannot be written to" in refusal(
        "predict", checkpoint, data / "val", "--output", "file", folder=tmp_path
    )


def test_thresholds_are_stored_wherever_a_model_is_loaded_from(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    own = Path(shutil.copy(checkpoint, tmp_path / "run" / "best.safetensors"))

    def perfect(_: object, dataset: detrkit.DetectionDataset, **__: object) -> list[dict[str, object]]:
        kept = ("image_id", "category_id", "bbox")
        return [{key: entry[key] for key in kept} | {"score": score} for entry in dataset.to_coco()["annotations"]]

    monkeypatch.setattr("detrkit.evaluation.detect", perfect)
    for given, score in (("~/run", 0.25), ("~/run/best.safetensors", 0.5), (own.parent, 0.75)):
        shown = detrkit_command("evaluate", given, "--data", data, "--store-thresholds", folder=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert f"Stored in {own}: the threshold {score:.3f}," in shown.stdout
        assert detrkit.load(own).card.threshold == score
    assert [path.name for path in own.parent.iterdir()] == ["best.safetensors"]


@pytest.mark.parametrize("name", ["detrkit.checkpoints.own_format.store_thresholds", "detrkit.files.write_json"])
def test_the_table_is_printed_also_where_a_file_cannot_be_written(
    name: str, checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = shutil.copy(checkpoint, tmp_path / "own.safetensors")

    def full_disk(*_: object) -> None:
        raise detrkit.errors.OutputError("a file cannot be written")

    def perfect(_: object, dataset: detrkit.DetectionDataset, **__: object) -> list[dict[str, object]]:
        kept = ("image_id", "category_id", "bbox")
        return [{key: entry[key] for key in kept} | {"score": 0.5} for entry in dataset.to_coco()["annotations"]]

    monkeypatch.setattr("detrkit.evaluation.detect", perfect)
    monkeypatch.setattr(name, full_disk)
    options = ("--store-thresholds", "--output", "figures.json")
    result = detrkit_command("evaluate", own, "--data", data, *options, folder=tmp_path)
    assert (result.returncode, result.stderr) == (2, "detrkit: a file cannot be written\n")
    assert "AP50" in result.stdout


def test_pictures_of_a_report_go_with_ids_that_look_like_numbers(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first image is called "2" and the second "1", but there is an image "b", so all are texts; and so are the classes."""
    truth = data / "annotations" / "instances_val.json"
    content = json.loads(truth.read_text())
    images = dict(zip([entry["id"] for entry in content["images"]], ("2", "1", "b", "5", "4"), strict=True))
    classes = {entry["id"]: str(10 - place) for place, entry in enumerate(content["categories"])}
    classes[content["categories"][-1]["id"]] = "c"
    for entry in content["annotations"]:
        entry |= {"image_id": images[entry["image_id"]], "category_id": classes[entry["category_id"]]}
    for entry in content["images"]:
        entry["id"] = images[entry["id"]]
    for entry in content["categories"]:
        entry["id"] = classes[entry["id"]]
    truth.write_text(json.dumps(content))
    kept = ("image_id", "category_id", "bbox")
    results = [{key: entry[key] for key in kept} | {"score": 0.5} for entry in content["annotations"]]
    (tmp_path / "found.json").write_text(json.dumps(results))
    drawn: list[tuple[list[str], list[list[float]]]] = []

    def record(image: object, detections: Any) -> object:
        drawn.append((list(detections.data["class_name"]), detections.xyxy.round(3).tolist()))
        return image

    monkeypatch.setattr("detrkit.evaluation.report.pictures.draw", record)
    options = ("--report", "report.html", "--output", "figures.json")
    done = detrkit_command("evaluate", "found.json", "--data", data, *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]["AP"] == pytest.approx(1.0)
    assert len(drawn) == 10
    for (names, boxes), (true_names, true_boxes) in zip(drawn[::2], drawn[1::2], strict=True):
        assert sorted(zip(names, boxes, strict=True)) == sorted(zip(true_names, true_boxes, strict=True))


def panoptic_files(folder: Path) -> None:
    """Ground truth and results of one image: a dog that is found and a sky that is not."""
    truth = segmentation(row((1, 10), (2, 10)), {1: DOG, 2: SKY})
    found = segmentation(row((1, 10), (0, 10)), {1: DOG})
    for name, image in (("truth", truth), ("found", found)):
        write_panoptic(folder / f"{name}.json", [(1, "a.jpg", image)], CATEGORIES)


def test_panoptic_results(tmp_path: Path) -> None:
    panoptic_files(tmp_path)
    files = ("--output", "new/figures.json", "--report", "report.html")
    result = detrkit_command("evaluate", "found.json", "--data", "truth.json", *files, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["all", "2", "0.500", "0.500", "0.500", "1", "0", "1"] in lines
    assert ["dog", "thing", "1.000", "1.000", "1.000", "1", "0", "0"] in lines
    assert "created the folder new" in result.stdout
    assert json.loads((tmp_path / "new/figures.json").read_text())["means"][0]["pq"] == 0.5
    assert "Worst classes:" in (tmp_path / "report.html").read_text()


def test_segments_and_boxes_are_not_compared_with_each_other(data: Path, tmp_path: Path) -> None:
    panoptic_files(tmp_path)
    boxes = data / "annotations" / "instances_val.json"
    (tmp_path / "boxes.json").write_text("[]")
    message = refusal("evaluate", "found.json", "--data", boxes, folder=tmp_path)
    assert "found.json holds panoptic segments, and" in message
    message = refusal("evaluate", "boxes.json", "--data", "truth.json", folder=tmp_path)
    assert "truth.json holds panoptic segments, and boxes.json a list of detections" in message
    message = refusal("evaluate", "found.json", "--data", "truth.json", "--charts", "charts", folder=tmp_path)
    assert "--charts needs detections, and found.json holds panoptic segments" in message


def test_a_model_with_masks_on_panoptic_data(shared: Path, tmp_path: Path) -> None:
    truth = shared / "data/coco/annotations/panoptic_val.json"
    torch.manual_seed(0)
    model = detrkit.build(
        "detr-compact-panoptic",
        preprocessing=detrkit.Preprocessing(64, 64),
        queries=4,
    )
    detrkit.save(model, tmp_path / "model.safetensors")
    files = ("--output", "figures.json", "--report", "report.html")
    result = detrkit_command("evaluate", "model.safetensors", "--data", truth, *files, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["masks"]["figures"].keys() == figures["figures"].keys()
    assert figures["panoptic"]["images"] == 13
    assert figures["panoptic"]["means"][0]["missed"] > 0
    assert "PQ, stuff" in (tmp_path / "report.html").read_text()
    assert "PQ" in result.stdout


def test_masks_are_refused_for_a_model_without_masks(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    message = refusal("evaluate", checkpoint, "--data", data, "--masks", "instances", folder=tmp_path)
    assert "--masks needs a model with masks, and a detr-compact has none" in message
