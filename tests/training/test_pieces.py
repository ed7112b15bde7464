"""Pieces of a batch: what the estimate of memory counts, which division it leads to, and that together they are the batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import kept_tensors
from torch import nn
from training.small_runs import SMALL, rows, run

import detrkit
from detrkit.backbones import BACKBONES, build_backbone
from detrkit.layers.shared_batch_norm import SharedBatchNorm2d
from detrkit.models.catalog import CATALOG
from detrkit.models.detr_segmentation import MaskDetector
from detrkit.structures import ImageBatch, Target
from detrkit.training import TrainingOptions
from detrkit.training.module import TrainingModule
from detrkit.training.options import resolve
from detrkit.training.pieces import (
    BACKBONE_COSTS,
    BACKWARD,
    LIBRARIES,
    LIMIT,
    MASK_OBJECTS,
    _mask_bytes,
    _parameter_bytes,
    count_cost,
    pieces,
    step_memory,
)


@pytest.mark.parametrize("name", BACKBONES)
def test_costs_of_backbones_are_what_they_keep(name: str) -> None:
    cost, counted = BACKBONE_COSTS[name], count_cost(build_backbone(name).train())
    assert cost.bytes_per_pixel == pytest.approx(counted.bytes_per_pixel, rel=0.02)
    assert cost.parameters == pytest.approx(counted.parameters, rel=0.02)
    assert cost.stride == counted.stride


@pytest.mark.parametrize("name", CATALOG)
def test_every_variant_fits_at_its_own_sizes(name: str) -> None:
    line = CATALOG[name]
    sizes = line.preprocessing.short_side, line.preprocessing.long_side
    batch = line.recipe.batch_size
    count = pieces(line.config, batch, *sizes)
    assert batch % count == 0
    assert step_memory(line.config, batch // count, *sizes) <= LIMIT
    fewer = [each for each in range(1, count) if batch % each == 0]
    assert all(step_memory(line.config, batch // each, *sizes) > LIMIT for each in fewer)


def test_small_batches_stay_whole_and_images_that_do_not_fit_go_one_by_one() -> None:
    config = CATALOG["detr-r50"].config
    assert pieces(config, 4, 128, 208) == 1
    assert pieces(config, 1, 800, 1333) == 1
    assert pieces(config, 6, 8000, 13330) == 6


def test_more_tokens_layers_or_images_take_more() -> None:
    few, many = (CATALOG[name].config for name in ("deformable-detr-r50-single-scale", "deformable-detr-r50"))
    plain, two_stage = (
        CATALOG[name].config for name in ("deformable-detr-r50-refine", "deformable-detr-r50-two-stage")
    )
    size = 800, 1333
    assert step_memory(few, 1, *size) < step_memory(many, 1, *size) < step_memory(many, 2, *size)
    assert step_memory(plain, 1, *size) < step_memory(two_stage, 1, *size)
    # Batches with portrait and landscape images are padded to squares.
    assert step_memory(many, 2, *size) == step_memory(many, 2, 1333, 1333)


def test_what_masks_keep_is_about_what_the_estimate_says() -> None:
    model = detrkit.build("detr-r50-panoptic", backbone="resnet18", encoder_layers=1, decoder_layers=1)
    assert isinstance(model, MaskDetector)
    inputs = model(ImageBatch(torch.zeros(1, 3, 256, 320))).mask_inputs
    kept: dict[int, dict[int, int]] = {}
    for objects in (0, MASK_OBJECTS):
        sizes = kept.setdefault(objects, {})

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            masks = model.mask_logits(inputs, torch.zeros(objects, dtype=torch.int64), torch.arange(objects))
        assert len(masks) == objects
    measured = sum(kept[MASK_OBJECTS].values()) - sum(kept[0].values())
    assert 0.9 < _mask_bytes(CATALOG["detr-r50-panoptic"].config, 256 * 320, MASK_OBJECTS) / measured < 1.1


def test_a_mosaic_has_the_masks_of_four_images() -> None:
    config, size = CATALOG["detr-r50-panoptic"].config, (800, 1333)
    plain, mixed = (step_memory(config, 1, *size, mosaics=mosaics) for mosaics in (False, True))
    masks = _mask_bytes(config, math.prod(size), MASK_OBJECTS)
    assert mixed - plain == pytest.approx(3 * BACKWARD * masks / 1e9)
    assert pieces(config, 64, 320, 430, mosaics=True) > pieces(config, 64, 320, 430)
    boxes = CATALOG["detr-r50"].config
    assert step_memory(boxes, 2, *size, mosaics=True) == step_memory(boxes, 2, *size)
    whole, parts = (
        resolve(TrainingOptions("detr-mobilenetv2-panoptic", "digits", short_side=320, augmentation=policy)).accumulate
        for policy in ("light", "strong")
    )
    assert whole is not None
    assert parts is not None
    assert parts > whole


@pytest.mark.parametrize(
    "name",
    ["detr-r50", "smca-detr-r50", "smca-detr-r50-multiscale", "sam-detr-r50-smca", "sam-detr-r50-multiscale-smca"],
)
def test_what_is_kept_is_about_what_the_estimate_says(name: str) -> None:
    """Of a small image, of which a model also keeps what does not depend on its size, such as folded weights."""
    config, model = CATALOG[name].config, detrkit.build(name).train()
    kept = kept_tensors(model, ImageBatch(torch.zeros(1, 3, 384, 512)))
    measured = sum(each.untyped_storage().nbytes() for each in kept if not isinstance(each, nn.Parameter))
    parameters = _parameter_bytes(config, BACKBONE_COSTS[config.backbone])
    estimated = ((step_memory(config, 1, 384, 512) - LIBRARIES) * 1e9 - parameters) / BACKWARD
    assert 0.65 < estimated / measured < 1.2


def test_pieces_of_a_batch_take_the_step_of_the_batch(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all pieces have as many objects, and norms do not look at the batch, gradients are the same."""
    taken: list[list[torch.Tensor]] = []
    step, clip = TrainingModule.training_step, TrainingModule.configure_gradient_clipping
    forward = SharedBatchNorm2d.forward

    def one_object(self: TrainingModule, batch: tuple[Any, list[Target]], index: int) -> torch.Tensor:
        images, targets = batch
        assert all(len(target.labels) > 0 for target in targets)
        return step(self, (images, [Target(target.labels[:1], target.boxes_cxcywh[:1]) for target in targets]), index)

    def keep(self: TrainingModule, *arguments: Any, **options: Any) -> None:
        taken.append([each.grad.clone() for each in self.model.parameters() if each.grad is not None])
        clip(self, *arguments, **options)

    def without_statistics(self: SharedBatchNorm2d, values: torch.Tensor) -> torch.Tensor:
        training, self.training = self.training, False
        try:
            return forward(self, values)
        finally:
            self.training = training

    monkeypatch.setattr(TrainingModule, "training_step", one_object)
    monkeypatch.setattr(TrainingModule, "configure_gradient_clipping", keep)
    monkeypatch.setattr(SharedBatchNorm2d, "forward", without_statistics)
    still: dict[str, Any] = {"multi_scale": False, "crop": False, "settings": {**SMALL["settings"], "dropout": 0.0}}
    for count in (1, 2, 4):
        _, printed = run(
            digits_folder, tmp_path / str(count), epochs=1, accumulate=count, lr=1e-12, backbone_lr=0.0, **still
        )
        assert rows(tmp_path / str(count))[0]["step"] == "3.0"
    assert "batches of 4 images in 4 pieces of 1" in printed
    assert len(taken) == 9
    for whole, *in_pieces in zip(taken[:3], taken[3:6], taken[6:], strict=True):
        assert any(each.abs().max() > 1e-3 for each in whole)
        for pieces_of_it in in_pieces:
            for one, other in zip(whole, pieces_of_it, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
