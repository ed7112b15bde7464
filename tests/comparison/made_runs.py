"""Runs of a comparison that are finished already, with detections made of the ground truth: no model has to learn anything."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import detrkit
from detrkit.comparison import Comparison, compare
from detrkit.comparison.contestants import read_contestants
from detrkit.comparison.outcome import stamp_of, write_outcome
from detrkit.comparison.plan import Plan, validation_of
from detrkit.data import DetectionDataset
from detrkit.evaluation import compare_in_detail

SETTINGS = {"queries": 6, "width": 32, "hidden": 32, "encoder_layers": 1, "decoder_layers": 1}
SMALL: dict[str, Any] = {"batch_size": 4, "short_side": 64, "long_side": 64, "device": "cpu", "settings": SETTINGS}
Finds = Callable[[int, dict[str, Any]], bool]


def untrained(path: Path, dataset: DetectionDataset) -> Path:
    """A small model with the classes of a data set."""
    torch.manual_seed(0)
    model = detrkit.build(
        "detr-compact", classes=list(dataset.categories), preprocessing=detrkit.Preprocessing(64, 64), **SETTINGS
    )
    return detrkit.save(model, path)


def finish(folder: Path, model: Path, dataset: DetectionDataset, finds: Finds) -> None:
    """Writes the outcome of a run.

    Args:
        folder: of the run.
        model: a weight file.
        dataset: what it was evaluated on.
        finds: from the place of an object in the ground truth and its annotation to whether it was found.
    """
    entries = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "bbox": each["bbox"],
            "score": 0.9 - place / 1000,
        }
        for place, each in enumerate(dataset.to_coco()["annotations"])
        if finds(place, each)
    ]
    evaluation, analysis = compare_in_detail(detrkit.load(model), dataset, entries)
    write_outcome(
        folder,
        model=str(model),
        stamp=stamp_of(model),
        evaluation=evaluation,
        analysis=analysis,
        entries=dataset.with_file_ids(entries),
        parameters=1234,
        memory=0.5,
    )


def made_comparison(folder: Path, data: Path, finds: dict[str, Finds]) -> list[Path]:
    """Checkpoints of which a comparison in a folder has finished runs; their paths.

    Args:
        folder: the comparison's is `comparison` in it.
        data: a data set's folder.
        finds: by the checkpoint's name, as for `finish`.
    """
    dataset = validation_of(str(data), {})
    checkpoints = [untrained(folder / f"{name}.safetensors", dataset) for name in finds]
    plan = Plan(read_contestants(checkpoints), str(data), 1, {}, folder / "comparison")
    plan.open(dataset)
    for contestant, checkpoint in zip(plan.contestants, checkpoints, strict=True):
        finish(plan.folder / contestant.run_name(0), checkpoint, dataset, finds[contestant.name])
    return checkpoints


def compared(folder: Path, data: Path, finds: dict[str, Finds]) -> Comparison:
    """The comparison of `made_comparison`, of which nothing is left to run; arguments as there."""
    checkpoints = made_comparison(folder, data, finds)
    return compare(checkpoints, data, output=folder / "comparison", console=Console(quiet=True))


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
