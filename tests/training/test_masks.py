"""Training on masks: jointly, and with a frozen detector whose boxes were trained before."""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from training.small_runs import rows

import detrkit
from detrkit.commands.train import train as command
from detrkit.errors import CheckpointError, OptionError
from detrkit.training.kept_models import KeptModels
from detrkit.training.run_folder import RunFolder

HEIGHT, WIDTH = 96, 128
CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 5, "name": "dog", "isthing": 1},
    {"id": 100, "name": "sky", "isthing": 0},
]
SETTINGS: dict[str, Any] = {"queries": 8, "decoder_layers": 1, "encoder_layers": 0}
OPTIONS: dict[str, Any] = {
    "steps": 2, "batch_size": 2, "short_side": 64, "long_side": 96, "crop": False, "multi_scale": False, "workers": 0,
}  # fmt: skip
MASKS = "detr-compact-panoptic"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures with a cat or dog before the sky, in COCO's panoptic layout and in its layout for instances."""
    root = tmp_path_factory.mktemp("segments")
    for split in ("train", "val"):
        contents: dict[str, dict[str, Any]] = {
            kind: {"images": [], "annotations": [], "categories": CATEGORIES} for kind in ("panoptic", "instances")
        }
        (root / "annotations").mkdir(exist_ok=True)
        for place in (root / split, root / f"panoptic_{split}"):
            place.mkdir()
        for number in range(1, 5):
            add_picture(root, split, number, contents)
        for kind, content in contents.items():
            (root / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
    return root


def add_picture(root: Path, split: str, number: int, contents: dict[str, dict[str, Any]]) -> None:
    left, top = 10 * number, 8 * number
    ids = np.full((HEIGHT, WIDTH), 7, dtype=np.uint8)
    ids[top : top + 40, left : left + 50] = 9
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[ids == 9] = (200, 40 * (number % 2), 30)
    Image.fromarray(pixels).save(root / split / f"{number}.png")
    Image.fromarray(np.dstack([ids, np.zeros_like(ids), np.zeros_like(ids)])).save(
        root / f"panoptic_{split}" / f"{number}.png"
    )
    image = {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}
    box, category = [left, top, 50, 40], 1 if number % 2 else 5
    segments = [
        {"id": 9, "category_id": category, "area": 2000, "bbox": box, "iscrowd": 0},
        {"id": 7, "category_id": 100, "area": HEIGHT * WIDTH - 2000, "bbox": [0, 0, WIDTH, HEIGHT], "iscrowd": 0},
    ]
    outline = [left, top, left + 50, top, left + 50, top + 40, left, top + 40]
    instance = {
        "id": number, "image_id": number, "category_id": category, "bbox": box, "area": 2000, "iscrowd": 0,
        "segmentation": [outline],
    }  # fmt: skip
    for content in contents.values():
        content["images"].append(image)
    contents["panoptic"]["annotations"].append(
        {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
    )
    contents["instances"]["annotations"].append(instance)


def train(variant: str, data: Path, output: Path, **options: Any) -> detrkit.training.result.TrainingResult:
    options = OPTIONS | {"settings": SETTINGS} | options
    return detrkit.train(variant, data, output=output, console=Console(file=io.StringIO()), **options)


@pytest.mark.parametrize(("masks", "classes"), [(None, ["cat", "dog", "sky"]), ("instances", ["cat", "dog", "sky"])])
def test_boxes_and_masks_jointly(folder: Path, tmp_path: Path, masks: Any, classes: list[str]) -> None:
    result = train(MASKS, folder, tmp_path / "run", masks=masks)
    (row,) = rows(result.folder)
    assert float(row["mask_loss"]) > 0
    assert 0 < float(row["dice_loss"]) <= 1
    assert ("PQ" in row) == (masks is None)  # panoptic where the data have such files
    model = detrkit.load(result.best)
    assert [category.name for category in model.card.categories] == classes
    assert [category.thing for category in model.card.categories] == [True, True, False]
    continued = detrkit.train(resume=result.folder, steps=4, console=Console(file=io.StringIO()))
    assert [row["step"] for row in rows(continued.folder)] == ["2.0", "4.0"]


def test_the_head_alone(folder: Path, tmp_path: Path) -> None:
    """A box detector is trained on all segments; then the mask head learns, also after the run was interrupted."""
    width = {"width": 128, "hidden": 256, "dropout": 0.0, "attention_heads": 8, "class_weight": 1.0}
    boxes = train("detr-compact", folder, tmp_path / "boxes", masks="panoptic", settings=SETTINGS | width)
    trained = detrkit.load(boxes.folder / "last.safetensors").state_dict()
    result = train(MASKS, folder, tmp_path / "masks", detector_from=boxes.folder / "last.safetensors", lr=0.01)
    detrkit.train(resume=result.folder, steps=4, console=Console(file=io.StringIO()))
    learned = detrkit.load(result.folder / "last.safetensors").state_dict()
    for name, tensor in trained.items():
        assert torch.equal(learned[name], tensor), name
    assert learned.keys() - trained.keys() == {name for name in learned if name.startswith("mask_")}
    once = detrkit.load(train(MASKS, folder, tmp_path / "other", steps=2).best).state_dict()
    assert not torch.equal(once["mask_head.output.weight"], learned["mask_head.output.weight"])


def test_a_detector_of_other_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    model = detrkit.build(MASKS, classes=["lion", "tiger"], **SETTINGS)
    detrkit.save(model, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match=r"has learned other classes \(lion, tiger\) than those of the data \(cat, dog, sky\)"
    ):
        train(MASKS, folder, tmp_path / "run", detector_from=tmp_path / "other.safetensors")
    assert not (tmp_path / "run").exists()


def test_a_detector_of_another_paper_is_refused(folder: Path, tmp_path: Path) -> None:
    model = detrkit.build("deformable-detr-compact", classes=["cat", "dog", "sky"])
    detrkit.save(model, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match="holds a deformable-detr-compact, whose parts a detr-compact-panoptic does not have"
    ):
        train(MASKS, folder, tmp_path / "run", detector_from=tmp_path / "other.safetensors")


def test_a_detector_with_other_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    model = detrkit.build(MASKS, classes=["cat", "dog", "sky"], **SETTINGS, attention_heads=16)
    detrkit.save(model, tmp_path / "other.safetensors")
    with pytest.raises(
        CheckpointError, match="has attention_heads=16 and this detr-compact-panoptic 8: train with the same settings"
    ):
        train(MASKS, folder, tmp_path / "run", detector_from=tmp_path / "other.safetensors")


@pytest.mark.parametrize("other", ["backbone_weights", "queries_from"])
def test_a_frozen_detector_is_not_changed(folder: Path, tmp_path: Path, other: str) -> None:
    files = {"detector_from": tmp_path / "a.safetensors", other: tmp_path / "b.safetensors"}
    with pytest.raises(OptionError, match=f"detector_from gives the whole detector, so {other} would change"):
        train(MASKS, folder, tmp_path / "run", **files)


def test_the_best_epoch_of_a_frozen_detector_is_that_of_its_masks(folder: Path, tmp_path: Path) -> None:
    """Box AP is the same in every epoch, so it cannot decide."""
    detrkit.save(detrkit.build(MASKS, classes=["cat", "dog", "sky"], **SETTINGS), tmp_path / "detector.safetensors")
    detector = tmp_path / "detector.safetensors"
    result = train(MASKS, folder, tmp_path / "run", masks="instances", detector_from=detector)
    best = json.loads((result.folder / "metrics.json").read_text())["best"]
    assert "mask_AP" in best
    kept = KeptModels(RunFolder(result.folder), evaluates=True)
    assert kept._is_better(best | {"mask_AP": best["mask_AP"] + 0.1, "AP": 0.0})
    assert not kept._is_better(best | {"mask_AP": best["mask_AP"] - 0.1, "AP": 1.0})


@pytest.mark.parametrize("options", [{"masks": "instances"}, {"detector_from": "boxes.safetensors"}])
def test_models_without_masks_take_no_options_of_masks(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(
        OptionError, match="is for models with masks, such as detr-r50-panoptic, and detr-compact has none"
    ):
        train("detr-compact", folder, tmp_path / "run", settings={}, **options)


def test_a_learned_mask_is_found(folder: Path, tmp_path: Path) -> None:
    """From data to a panoptic result: after some steps on four pictures the object's pixels are one segment, and the sky the other."""
    result = train(
        MASKS, folder, tmp_path / "run", settings={"queries": 8}, steps=120, batch_size=4, flip=0.0, evaluate_every=40
    )
    evaluation = detrkit.evaluate_panoptic(result.best, detrkit.open_dataset(folder, "val", masks="panoptic"))
    assert evaluation.pq is not None
    assert evaluation.pq > 0.6
    found = detrkit.Predictor(result.best).panoptic(folder / "val" / "2.png")
    assert found.ids.shape == (HEIGHT, WIDTH)
    assert "sky" in {segment.category.name for segment in found.segments}


@pytest.mark.reports
def test_the_command_says_which_masks_it_reads_and_how_good_segments_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer queries than segments, which is said once, and in the run's own words."""
    settings = {name: str(value) for name, value in SETTINGS.items()} | {"queries": "1"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        command(MASKS, folder, output=tmp_path / "run", settings=settings, **OPTIONS)
    assert not [str(each.message) for each in caught if "queries" in str(each.message) or "query" in str(each.message)]
    shown = " ".join(capsys.readouterr().out.split())
    assert "with masks of segments (things and stuff), 3 classes" in shown
    assert shown.count("Warning: train: 4 of 4 images have more objects") == 1
    for kind in ("all", "things", "stuff"):
        assert re.search(rf"\b{kind} [123] 0\.\d{{3}} 0\.\d{{3}} 0\.\d{{3}}", shown)
    report = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"--masks\W.{0,40}panoptic", report, re.DOTALL)
    assert "Best epoch" in report
    assert json.loads((tmp_path / "run" / "config.json").read_text())["options"]["masks"] is None  # as it was given


def test_a_dry_run_shows_the_kind_of_masks(folder: Path) -> None:
    planned = detrkit.training.dry_run(MASKS, folder, console=Console(file=io.StringIO()), settings=SETTINGS, **OPTIONS)
    assert "masks = panoptic" in str(planned)
