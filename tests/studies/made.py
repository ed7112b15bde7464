"""Small detectors and runs for the tests of studies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import detrkit
from detrkit.data import EvaluationTransform, read_digits
from detrkit.models.detector import EncoderDecoder
from detrkit.structures import ImageBatch, Target
from detrkit.studies.learning import Job, made
from detrkit.studies.setting import OPTIONS, SAME
from detrkit.studies.study import Trial
from detrkit.training.module import TrainingModule

SMALL: dict[str, Any] = {**SAME, "attention_heads": 2, "width": 32, "hidden": 32, "queries": 10, "decoder_layers": 2}


def small(variant: str = "detr-compact", **settings: Any) -> EncoderDecoder:
    """A small detector of ten classes, in eval mode."""
    torch.manual_seed(0)
    model = detrkit.build(
        variant,
        classes=[str(digit) for digit in range(10)],
        preprocessing=detrkit.Preprocessing(64, 64),
        **{**SMALL, **settings},
    )
    assert isinstance(model, EncoderDecoder)
    return model.eval()


def module_of(variant: str = "detr-compact", **settings: Any) -> TrainingModule:
    """A run of a small detector on the digits, before its first step."""
    given = {**OPTIONS, "variant": variant, "data": "digits", "settings": {**SMALL, **settings}, "steps": 2}
    options = {name: value for name, value in given.items() if name != "epochs"}
    module, _ = made(Job(Trial(variant), options, seed=0, single_class=True, run=Path("not_written")))
    return module


def batch(count: int = 4) -> tuple[ImageBatch, list[Target]]:
    """Digits as the studies show them, with their objects."""
    digits = read_digits("val", images=count, size=64)
    transform = EvaluationTransform(detrkit.Preprocessing(64, 64))
    pixels = torch.stack([transform(digits.image(index)) for index in range(count)])
    targets = []
    for index in range(count):
        objects = digits.objects(index)
        boxes = torch.as_tensor(objects.boxes_xyxy, dtype=torch.float32) / 64
        cxcywh = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=-1)
        targets.append(Target(torch.zeros(len(boxes), dtype=torch.int64), cxcywh))
    return ImageBatch(pixels), targets
