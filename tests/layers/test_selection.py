"""From scores to detections: which class, which order, which pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from detrkit.layers.selection import SoftmaxSelection, TopKSelection
from detrkit.structures import LayerOutput, Output

SIZES = torch.tensor([[100, 200], [30, 10]])


def probabilities() -> Tensor:
    """(2, 3, 4): three classes and no-object, for three queries of two images."""
    return torch.tensor(
        [
            [[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.02, 0.04, 0.04, 0.9]],
            [[0.25, 0.3, 0.25, 0.2], [0.05, 0.05, 0.8, 0.1], [0.3, 0.5, 0.1, 0.1]],
        ]
    )


def output_of(scores: Tensor) -> LayerOutput:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.25, 0.75, 0.5, 0.5], [0.1, 0.1, 0.4, 0.2]])
    return LayerOutput(scores.log(), boxes.expand(2, 3, 4))


def test_every_query_gives_its_best_class_sorted_by_score() -> None:
    first, second = SoftmaxSelection()(output_of(probabilities()), SIZES)
    torch.testing.assert_close(first.scores, torch.tensor([0.7, 0.3, 0.04]))
    assert first.labels.tolist() == [0, 2, 1]
    assert first.queries.tolist() == [1, 0, 2]
    torch.testing.assert_close(second.scores, torch.tensor([0.8, 0.5, 0.3]))
    assert second.labels.tolist() == [2, 1, 1]
    assert second.queries.tolist() == [1, 2, 0]


def test_boxes_are_pixels_of_each_original_and_are_not_clipped() -> None:
    first, second = SoftmaxSelection()(output_of(probabilities()), SIZES)
    # Queries 1, 0, 2 of an image of height 100 and width 200; the last box begins left of the image.
    wanted = [[0.0, 50.0, 100.0, 100.0], [80.0, 30.0, 120.0, 70.0], [-20.0, 0.0, 60.0, 20.0]]
    torch.testing.assert_close(first.boxes_xyxy, torch.tensor(wanted), rtol=0, atol=1e-4)
    # Queries 1, 2, 0 of an image of height 30 and width 10.
    wanted = [[0.0, 15.0, 5.0, 30.0], [-1.0, 0.0, 3.0, 6.0], [4.0, 9.0, 6.0, 21.0]]
    torch.testing.assert_close(second.boxes_xyxy, torch.tensor(wanted), rtol=0, atol=1e-5)


def test_outputs_without_a_name_win_nothing() -> None:
    first, second = SoftmaxSelection([1, 2])(output_of(probabilities()), SIZES)
    assert first.labels.tolist() == [2, 1, 1]  # query 1's 0.7 is of output 0, which has no name
    torch.testing.assert_close(first.scores, torch.tensor([0.3, 0.1, 0.04]))
    assert first.queries.tolist() == [0, 1, 2]
    assert second.labels.tolist() == [2, 1, 1]


def test_unnamed_outputs_are_never_reported_whatever_the_scores() -> None:
    named = [1, 3, 4, 8]
    logits = torch.randn(2, 50, 12) * 5
    boxes = torch.rand(2, 50, 4)
    for found in SoftmaxSelection(named)(LayerOutput(logits, boxes), SIZES):
        assert set(found.labels.tolist()) <= set(named)
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert sorted(found.queries.tolist()) == list(range(50))


def test_scores_are_shares_of_all_outputs_also_of_those_without_a_name() -> None:
    logits = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    (found,) = SoftmaxSelection([0])(LayerOutput(logits, torch.rand(1, 1, 4)), SIZES[:1])
    assert found.scores.item() == pytest.approx(1 / logits.exp().sum().item())


def test_the_order_of_categories_does_not_matter() -> None:
    layer = LayerOutput(torch.randn(2, 30, 6), torch.rand(2, 30, 4))
    first, second = SoftmaxSelection([0, 2, 4])(layer, SIZES), SoftmaxSelection([4, 0, 2])(layer, SIZES)
    for one, other in zip(first, second, strict=True):
        assert set(one.labels.tolist()) == {0, 2, 4}
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores)


def test_the_last_layer_counts() -> None:
    layer = output_of(probabilities())
    output = Output(
        torch.stack([torch.randn(2, 3, 4), layer.logits]), torch.stack([torch.rand(2, 3, 4), layer.boxes_cxcywh])
    )
    for one, other in zip(SoftmaxSelection()(output, SIZES), SoftmaxSelection()(layer, SIZES), strict=True):
        torch.testing.assert_close(one.scores, other.scores)
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy)


def test_ties_keep_the_order_of_the_queries() -> None:
    layer = LayerOutput(torch.zeros(1, 40, 3), torch.rand(1, 40, 4))
    (found,) = SoftmaxSelection()(layer, SIZES[:1])
    assert found.queries.tolist() == list(range(40))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_become_float32_before_the_softmax(dtype: torch.dtype) -> None:
    layer = output_of(probabilities())
    halved = LayerOutput(layer.logits.to(dtype), layer.boxes_cxcywh)
    found = SoftmaxSelection()(halved, SIZES)[0]
    assert found.scores.dtype == torch.float32
    exact = halved.logits[0].double().exp()
    wanted = (exact / exact.sum(-1, keepdim=True))[[1, 0, 2], [0, 2, 1]]
    torch.testing.assert_close(found.scores.double(), wanted, rtol=0, atol=1e-6)


def test_scores_of_all_classes_leave_no_object_out() -> None:
    torch.testing.assert_close(SoftmaxSelection([1]).class_scores(probabilities().log()), probabilities()[..., :3])
    torch.testing.assert_close(TopKSelection([1]).class_scores(probabilities().logit()), probabilities())


def test_no_image_gives_no_list() -> None:
    assert SoftmaxSelection()(LayerOutput(torch.zeros(0, 3, 4), torch.zeros(0, 3, 4)), torch.zeros(0, 2)) == []


class TestTopKSelection:
    def pairs(self) -> LayerOutput:
        """Three classes for three queries of two images, each class by itself."""
        scores = torch.tensor(
            [
                [[0.9, 0.2, 0.8], [0.1, 0.7, 0.3], [0.05, 0.6, 0.04]],
                [[0.15, 0.25, 0.35], [0.45, 0.55, 0.65], [0.75, 0.85, 0.95]],
            ]
        )
        return LayerOutput(scores.logit(), output_of(probabilities()).boxes_cxcywh)

    def test_a_query_can_appear_with_several_classes(self) -> None:
        first, second = TopKSelection(limit=4)(self.pairs(), SIZES)
        torch.testing.assert_close(first.scores, torch.tensor([0.9, 0.8, 0.7, 0.6]))
        assert first.labels.tolist() == [0, 2, 1, 1]
        assert first.queries.tolist() == [0, 0, 1, 2]
        torch.testing.assert_close(second.scores, torch.tensor([0.95, 0.85, 0.75, 0.65]))
        assert second.labels.tolist() == [2, 1, 0, 2]
        assert second.queries.tolist() == [2, 2, 2, 1]
        # Queries 0, 0, 1, 2 of an image of height 100 and width 200.
        wanted = [[80.0, 30.0, 120.0, 70.0]] * 2 + [[0.0, 50.0, 100.0, 100.0], [-20.0, 0.0, 60.0, 20.0]]
        torch.testing.assert_close(first.boxes_xyxy, torch.tensor(wanted), rtol=0, atol=1e-4)

    def test_outputs_without_a_name_take_no_place(self) -> None:
        first, second = TopKSelection([2, 1], limit=3)(self.pairs(), SIZES)
        torch.testing.assert_close(first.scores, torch.tensor([0.8, 0.7, 0.6]))
        assert first.labels.tolist() == [2, 1, 1]
        assert second.labels.tolist() == [2, 1, 2]
        assert second.queries.tolist() == [2, 2, 1]

    @pytest.mark.parametrize(("named", "count"), [(None, 9), ([1], 3)])
    def test_there_are_no_more_detections_than_pairs(self, named: list[int] | None, count: int) -> None:
        for found in TopKSelection(named)(self.pairs(), SIZES):
            assert len(found.scores) == len(found.labels) == len(found.boxes_xyxy) == len(found.queries) == count
            assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)

    def test_a_hundred_are_enough(self) -> None:
        layer = LayerOutput(torch.randn(2, 60, 5), torch.rand(2, 60, 4))
        for image, found in enumerate(TopKSelection([0, 3, 4])(layer, SIZES)):
            best = layer.logits[image][:, [0, 3, 4]].sigmoid().flatten().sort(descending=True).values[:100]
            torch.testing.assert_close(found.scores, best)
            assert set(found.labels.tolist()) == {0, 3, 4}
            torch.testing.assert_close(found.scores, layer.logits[image, found.queries, found.labels].sigmoid())

    def test_scores_of_one_class_do_not_depend_on_others(self) -> None:
        layer = self.pairs()
        shifted = LayerOutput(layer.logits.index_fill(-1, torch.tensor([2]), 50.0), layer.boxes_cxcywh)
        for one, other in zip(*(TopKSelection([0, 1])(each, SIZES) for each in (layer, shifted)), strict=True):
            torch.testing.assert_close(one.scores, other.scores)

    def test_the_last_layer_counts(self) -> None:
        layer = self.pairs()
        output = Output(
            torch.stack([torch.randn(2, 3, 3), layer.logits]), torch.stack([torch.rand(2, 3, 4), layer.boxes_cxcywh])
        )
        for one, other in zip(TopKSelection()(output, SIZES), TopKSelection()(layer, SIZES), strict=True):
            torch.testing.assert_close(one.scores, other.scores)
            torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy)

    def test_half_precision_scores_become_float32_before_the_sigmoid(self) -> None:
        layer = self.pairs()
        halved = LayerOutput(layer.logits.to(torch.bfloat16), layer.boxes_cxcywh)
        found = TopKSelection(limit=2)(halved, SIZES)[0]
        assert found.scores.dtype == torch.float32
        wanted = 1 / (1 + (-halved.logits[0, 0, [0, 2]].double()).exp())
        torch.testing.assert_close(found.scores.double(), wanted, rtol=0, atol=1e-6)
