"""Detectors with masks: which masks are computed, what is frozen, and what is exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import detrkit
from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.models.catalog import config_of
from detrkit.models.detr_segmentation import MaskDetector, WithMasks
from detrkit.structures import ImageBatch, Target

VARIANTS = ["detr-compact-panoptic", "conditional-detr-compact-panoptic", "deformable-detr-compact-panoptic"]
BOXES = {"detr": "detr-compact", "conditional": "conditional-detr-compact", "deformable": "deformable-detr-compact"}


def build(variant: str, **changes: Any) -> MaskDetector:
    torch.manual_seed(0)
    model = detrkit.build(variant, classes=["cat", "sky"], queries=6, **changes).eval()
    assert isinstance(model, MaskDetector)
    return model


def images(count: int = 2, height: int = 128, width: int = 160) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1)))


def objects() -> list[Target]:
    """Two objects in the first image, none in the second."""
    masks = torch.zeros(2, 128, 160, dtype=torch.bool)
    masks[0, 20:60, 30:90] = masks[1, 80:128, :] = True
    boxes = torch.tensor([[0.375, 0.3125, 0.375, 0.3125], [0.5, 0.8125, 1.0, 0.375]])
    none = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 128, 160, dtype=torch.bool))
    return [Target(torch.tensor([0, 1]), boxes, masks), none]


@pytest.mark.parametrize("variant", VARIANTS)
class TestEveryPaper:
    def test_a_queries_mask_does_not_depend_on_other_queries(self, variant: str) -> None:
        model = build(variant)
        with torch.no_grad():
            inputs = model(images()).mask_inputs
            together = model.mask_logits(inputs, torch.tensor([0, 1, 1]), torch.tensor([3, 0, 5]))
            alone = model.mask_logits(inputs, torch.tensor([1]), torch.tensor([0]))
        assert together.shape == (3, 32, 40)
        torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)
        assert (together[1] - together[2]).abs().max() > 1e-4

    def test_boxes_are_those_of_the_paper_without_masks(self, variant: str) -> None:
        model = build(variant)
        settings = {name: getattr(config_of(model), name) for name in ("width", "hidden")}
        plain = detrkit.build(
            BOXES[variant.split("-")[0]], classes=["cat", "sky"], queries=6, backbone="compact", attention_heads=8,
            encoder_layers=1, decoder_layers=3, **settings,
        ).eval()  # fmt: skip
        own = model.state_dict()
        plain.load_state_dict({name: own[name] for name in plain.state_dict()})
        with torch.no_grad():
            found, wanted = model(images()), plain(images())
        torch.testing.assert_close(found.logits, wanted.logits)
        torch.testing.assert_close(found.boxes_cxcywh, wanted.boxes_cxcywh)

    def test_only_the_head_of_a_frozen_detector_learns(self, variant: str) -> None:
        model = build(variant, dropout=0.5).freeze_detector().train()
        assert not any(part.training for part in model.backbone.modules())  # norms of images count nothing
        torch.testing.assert_close(model(images()).logits, model(images()).logits, atol=0, rtol=0)  # no dropout
        detrkit.criterion_for(model)(model(images()), objects()).total.backward()
        learning = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
        assert learning == {"mask_attention", "mask_head"}

    def test_a_batch_without_objects_has_a_gradient(self, variant: str) -> None:
        model = build(variant).freeze_detector().train()
        losses = detrkit.criterion_for(model)(model(images()), [objects()[1]] * 2)
        losses.total.backward()
        assert losses.terms["layers.2.mask"] == losses.terms["layers.2.dice"] == 0
        gradients = [value.grad for value in model.mask_head.parameters()]
        assert all(gradient is not None and not gradient.any() for gradient in gradients)

    def test_bf16(self, variant: str) -> None:
        """Masks are part of the model, so they take its precision also where the criterion turns autocast off."""
        model = build(variant).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(images())
        losses = detrkit.criterion_for(model)(output, objects())
        losses.total.backward()
        assert losses.total.dtype == torch.float32
        assert losses.total.isfinite()


@pytest.mark.parametrize(
    "variant", [VARIANTS[0], *(pytest.param(each, marks=pytest.mark.slow) for each in VARIANTS[1:])]
)
def test_export_with_masks(variant: str) -> None:
    model = WithMasks(build(variant, encoder_layers=1, decoder_layers=2)).eval()
    batch, size = torch.export.Dim("batch", min=1), torch.export.Dim.DYNAMIC
    padding = torch.zeros(2, 128, 160, dtype=torch.bool)
    padding[1, 100:] = True
    example = ImageBatch(images().pixels, padding)
    shapes = [{0: batch, 2: size, 3: size}, {0: batch, 1: size, 2: size}]
    program = torch.export.export(model, (example,), dynamic_shapes=(shapes,)).module()
    other = ImageBatch(images(1, 96, 192).pixels, torch.zeros(1, 96, 192, dtype=torch.bool))
    with torch.no_grad():
        for given in (example, other):
            for found, wanted in zip(program(given), model(given), strict=True):
                torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_backbone_without_fine_levels_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'compact-c4' has levels of stride 4, 8, 16, but masks need a level and three finer"
    ):
        detrkit.build("detr-compact-panoptic", classes=["cat"], backbone="compact-c4")


def test_a_detector_with_steps_of_its_own_is_refused() -> None:
    detector = detrkit.build("anchor-detr-compact", classes=["cat"])
    with pytest.raises(ConfigurationError, match="AnchorDetector has steps of its own"):
        MaskDetector.around(detector, config_of(build("detr-compact-panoptic")))


def test_a_width_that_norms_cannot_split_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not width 96 and 8 attention heads: take width 128 or 256"):
        detrkit.build("detr-compact-panoptic", classes=["cat"], width=96)


def test_objects_without_masks_are_refused() -> None:
    model = build("detr-compact-panoptic")
    targets = [Target(each.labels, each.boxes_cxcywh) for each in objects()]
    with pytest.raises(ValueError, match="target 0 has no masks"):
        detrkit.criterion_for(model)(model(images()), targets)


def test_attention_gain_multiplies_the_weights_that_read_attention() -> None:
    plain, strong = (
        build("detr-compact-panoptic", attention_gain=1.0),
        build("detr-compact-panoptic", attention_gain=3.0),
    )
    own, other = plain.mask_head.first.convolution.weight, strong.mask_head.first.convolution.weight
    torch.testing.assert_close(other[:, 128:], 3 * own[:, 128:])
    torch.testing.assert_close(other[:, :128], own[:, :128])


def test_masks_that_are_not_finite_are_told() -> None:
    """Boxes of a frozen detector stay finite whatever its head does."""
    model = build("detr-compact-panoptic").freeze_detector()
    with torch.no_grad():
        model.mask_head.output.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="image 0 of the batch: the loss is not finite, because its masks are not"):
        detrkit.criterion_for(model)(model(images()), objects())
    with pytest.raises(NonFiniteError, match="masks that are NaN or infinite"):
        detrkit.Predictor(model, threshold=0.0)(np.zeros((96, 96, 3), dtype=np.uint8))


def test_masks_follow_the_features_where_norms_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA, autocast runs norms in float32: then only the finer features are in half precision."""
    own = torch.nn.functional.group_norm

    def in_float32(values: torch.Tensor, groups: int, weight: Any, bias: Any, epsilon: float) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return own(values.float(), groups, weight, bias, epsilon)

    monkeypatch.setattr(torch.nn.functional, "group_norm", in_float32)
    model = build("deformable-detr-compact-panoptic").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inputs = model(images()).mask_inputs
        output = model(images())
    assert (inputs.projected.dtype, inputs.features[0].dtype) == (torch.float32, torch.bfloat16)
    assert detrkit.criterion_for(model)(output, objects()).total.isfinite()
