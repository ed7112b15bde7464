"""TSP-FCOS and TSP-RCNN: settings, which features and regions become tokens, edges, and learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models.by_heart import assert_learns_by_heart
from torch import Tensor

from detrkit.data import Augmentation
from detrkit.errors import ConfigurationError, NonFiniteError
from detrkit.layers.region_proposals import AnchorPredictions, proposed_regions
from detrkit.matching.regions import objects_of_anchors, objects_of_regions, training_regions
from detrkit.models import tsp_fcos, tsp_rcnn
from detrkit.models.catalog import build, criterion_for, selection_for
from detrkit.models.detector import Detector
from detrkit.models.tsp_fcos import FeatureInterest
from detrkit.structures import ImageBatch, Target

SMALL = {
    "width": 128,
    "pyramid_width": 64,
    "hidden": 64,
    "attention_heads": 4,
    "encoder_layers": 1,
    "queries": 20,
    "drop": 0.0,
}
PAPERS = ("fcos", "rcnn")


def small(paper: str, **changes: Any) -> Detector:
    torch.manual_seed(0)
    return build(f"tsp-{paper}-compact", classes=["a", "b", "c"], **(SMALL | changes))


def pictures(*size: int, count: int = 2) -> ImageBatch:
    return ImageBatch(torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)))


def objects(*boxes: tuple[float, float, float, float]) -> Target:
    return Target(torch.zeros(len(boxes), dtype=torch.int64), torch.tensor(boxes).reshape(-1, 4))


class TestPublishedModels:
    def test_the_defaults_are_the_scripts(self) -> None:
        for config in (tsp_fcos.Config(), tsp_rcnn.Config()):
            assert (config.class_count, config.queries, config.width, config.pyramid_width) == (80, 700, 512, 256)
            assert (config.attention_heads, config.hidden, config.encoder_layers, config.decoder_layers) == (
                8,
                2048,
                6,
                0,
            )
            assert (config.dropout, config.drop, config.backbone) == (0.1, 0.3, "resnet50-caffe")

    @pytest.mark.parametrize(("paper", "rate"), [("fcos", 0.01), ("rcnn", 0.02)])
    def test_schedules(self, paper: str, rate: float) -> None:
        variants = {"fcos": tsp_fcos.VARIANTS, "rcnn": tsp_rcnn.VARIANTS}[paper]
        for depth in ("50", "101"):
            variant = variants[f"tsp-{paper}-r{depth}"]
            recipe, pixels = variant.recipe, variant.preprocessing
            assert variant.config.backbone == f"resnet{depth}-caffe"
            assert (recipe.epochs, recipe.batch_size, recipe.warmup_steps, recipe.gradient_clip) == (36, 16, 1000, 0.01)
            assert (recipe.learning_rate, recipe.backbone_learning_rate) == (1e-4, rate)
            assert recipe.sgd_factor * recipe.learning_rate == pytest.approx(rate)
            assert (recipe.adamw_parts, recipe.decay_norms) == (("encoder",), False)
            assert Augmentation.named(recipe.augmentation, 800, 1333) == Augmentation(
                short_sides=(640, 672, 704, 736, 768, 800), crop=False
            )
            assert [270 * recipe.drop_after, 270 * (recipe.second_drop_after or 0)] == pytest.approx([180, 240])
            assert [255 * each for each in pixels.mean] == pytest.approx([123.675, 116.28, 103.53])
            assert [255 * each for each in pixels.deviation] == pytest.approx([1, 1, 1])
            assert pixels.channels == "bgr"


@pytest.mark.parametrize(
    ("paper", "changes", "message"),
    [
        ("fcos", {"decoder_layers": 1}, "decoder_layers must be 0, not 1: this paper takes the decoder out"),
        ("fcos", {"drop": 1.0}, "drop must be below 1, not 1.0: no token would be left"),
        ("fcos", {"l1_weight": 1.0}, "l1_weight must be 0, not 1.0: TSP-FCOS has no distance loss"),
        (
            "fcos",
            {"pyramid_width": 128},
            "pyramid_width must be a multiple of 32 (groups of its norms), at least 64, and half of width (512)",
        ),
        ("rcnn", {"width": 200}, "width 200 must be a multiple of 16 (sine and cosine of eight numbers of a box)"),
        (
            "rcnn",
            {"backbone": "resnet50-dc5"},
            "backbone must have levels of stride 8, 16 and 32, which 'resnet50-dc5' does not",
        ),
    ],
)
def test_settings_that_no_model_can_have(paper: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        {"fcos": tsp_fcos.Config, "rcnn": tsp_rcnn.Config}[paper](**changes)
    assert str(caught.value).startswith(message)


class TestFeatures:
    def test_the_best_cells_become_tokens_and_positive_ones_come_first(self) -> None:
        logits = torch.tensor([[[0.0, -3.0], [1.0, 2.0], [-1.0, -2.0], [0.5, 0.1]]])
        interest = FeatureInterest(count=3, drop=0.0)
        assert interest(logits).tolist() == [[1, 3, 0]]
        positive = torch.tensor([[False, False, True, False]])
        assert interest(logits, positive).tolist() == [[1, 2, 3]]  # 0.88, (0.27 + 1) / 2, 0.62

    def test_training_leaves_the_same_ranks_out_of_every_image(self) -> None:
        logits = torch.randn(2, 50, 3)
        interest = FeatureInterest(count=40, drop=0.3)
        whole = interest.eval()(logits)
        counts = set()
        for _ in range(20):
            part = interest.train()(logits)
            counts.add(part.shape[1])
            ranks = [[whole[image].tolist().index(cell) for cell in part[image].tolist()] for image in range(2)]
            assert ranks[0] == ranks[1] == sorted(set(ranks[0]))
        assert min(counts) >= 28
        assert max(counts) <= 40
        assert len(counts) > 3

    def test_there_are_no_more_features_than_cells(self) -> None:
        model = small("fcos", queries=700).eval()
        batch = pictures(64, 96, count=1)
        output = model(batch)
        cells = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1
        assert output.logits.shape == (1, 1, cells, 3)
        assert output.features.cells.sort().values.tolist() == [list(range(cells))]
        assert torch.isfinite(criterion_for(model)(output, [objects((0.5, 0.5, 0.3, 0.3))]).total)


class TestRegions:
    def test_an_image_without_proposals_gets_itself(self) -> None:
        anchors = torch.tensor([[-50.0, -50.0, -20.0, -20.0]])  # nothing of it lies in the image
        predictions = AnchorPredictions(torch.zeros(1, 1), torch.zeros(1, 1, 4), anchors, (1,))
        found = proposed_regions(predictions, torch.tensor([[64.0, 32.0]]), before=10, after=5, overlap=0.7)
        assert [each.tolist() for each in found] == [[[0, 0, 64, 32]]]

    def test_regions_belong_to_what_they_overlap_by_half(self) -> None:
        regions = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [30, 30, 40, 40]])
        wanted = torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 42]])
        assert objects_of_regions(regions, wanted).tolist() == [0, 0, -1, 1]
        assert objects_of_regions(regions, wanted[:0]).tolist() == [-1] * 4

    def test_anchors_that_overlap_an_object_most_belong_to_it(self) -> None:
        anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2], [30, 30, 34, 34]])
        # An object without area belongs to no anchor, not to all.
        thin, _ = objects_of_anchors(anchors, torch.tensor([[5.0, 5, 5, 60], [0, 0, 10, 10]]))
        assert thin.tolist() == objects_of_anchors(anchors, torch.tensor([[0.0, 0, 10, 10]]))[0].tolist()
        labels, found = objects_of_anchors(anchors, torch.tensor([[0.0, 0, 10, 10], [32, 32, 60, 60]]))
        assert labels.tolist() == [1, -1, 0, 1]
        assert found[[0, 3]].tolist() == [0, 1]

    def test_objects_that_nothing_overlaps_become_regions_a_little_beside_themselves(self) -> None:
        torch.manual_seed(0)
        proposals, wanted = torch.tensor([[0.0, 0, 5, 5]] * 20), torch.tensor([[50.0, 50, 90, 70]])
        found = training_regions(proposals, wanted, count=8)
        assert len(found) == 8
        assert objects_of_regions(found, wanted).tolist() == [0] + [-1] * 7
        assert not torch.equal(found[0], wanted[0])
        assert (found[0] - wanted[0]).abs().max() < 12
        assert len(training_regions(proposals, wanted[:0], count=8)) == 8


@pytest.mark.parametrize("paper", PAPERS)
class TestEdges:
    def test_an_image_smaller_than_a_cell_of_the_coarsest_level(self, paper: str) -> None:
        model = small(paper).eval()
        output = model(pictures(20, 31))
        assert output.logits.isfinite().all()
        assert output.boxes_cxcywh.isfinite().all()
        assert all(len(found.scores) for found in selection_for(model)(output, torch.tensor([[20, 31]] * 2)))
        assert model.card.preprocessing.smallest_side >= model.coarsest_stride == 128

    def test_no_object_in_the_batch(self, paper: str) -> None:
        model = small(paper)
        losses = criterion_for(model)(model(pictures(64, 96), [objects()] * 2), [objects()] * 2)
        losses.total.backward()
        assert losses.total.isfinite()
        for name in ("giou", "centerness" if paper == "fcos" else "class"):
            assert losses.terms[name].item() == 0
        assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())

    def test_objects_that_nothing_may_be_matched_to(self, paper: str) -> None:
        """Thinner than any cell's distance to its neighbour, they have no centre of a cell in them."""
        model, thin = small(paper), objects((0.501, 0.5, 1e-6, 1e-6))
        losses = criterion_for(model)(model(pictures(64, 96, count=1), [thin]), [thin])
        assert losses.total.isfinite()

    def test_batches_of_both_orientations(self, paper: str) -> None:
        model = small(paper).eval()
        padding = torch.ones(2, 96, 96, dtype=torch.bool)
        padding[0, :64], padding[1, :, :64] = False, False
        with torch.no_grad():
            assert model(ImageBatch(pictures(96, 96).pixels, padding)).logits.isfinite().all()

    def test_predictions_that_are_not_finite_are_told(self, paper: str) -> None:
        model = small(paper)
        output = model(pictures(64, 96), [objects()] * 2)
        output.logits[:, 1] = torch.nan
        with pytest.raises(NonFiniteError, match="image 1 of the batch: the loss is not finite"):
            criterion_for(model)(output, [objects()] * 2)

    def test_outputs_of_other_models_are_refused(self, paper: str) -> None:
        other = small({"fcos": "rcnn", "rcnn": "fcos"}[paper])
        with pytest.raises(ConfigurationError, match="use the criterion made for its model"):
            criterion_for(small(paper))(other(pictures(64, 96)), [objects()] * 2)


@pytest.mark.parametrize("paper", PAPERS)
def test_suppression_leaves_no_repetition(paper: str) -> None:
    model = small(paper).eval()
    with torch.no_grad():
        output = model(pictures(128, 160))
    for found in selection_for(model)(output, torch.tensor([[128, 160]] * 2)):
        assert len(found.scores) > 1
        assert found.scores.diff().max() <= 0
        assert found.boxes_xyxy.min() >= 0
        assert (found.boxes_xyxy <= torch.tensor([160, 128, 160, 128])).all()
        for label in found.labels.unique():
            boxes = found.boxes_xyxy[found.labels == label]
            if paper == "rcnn":  # whose boxes are cut off at the image before they compete
                assert largest_overlap(boxes) <= 0.7 + 1e-6


def largest_overlap(boxes: Tensor) -> float:
    from torchvision.ops import box_iou

    found = box_iou(boxes, boxes).fill_diagonal_(0)
    return float(found.max())


@pytest.mark.parametrize("paper", PAPERS)
def test_learns_by_heart(paper: str) -> None:
    assert_learns_by_heart(small(paper), steps=60, clip=10.0)
