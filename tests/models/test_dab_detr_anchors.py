"""DAB-DETR's queries: what anchors, patterns and contents give, where anchors start, and which of them learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models.small_dab_detr import TARGETS, small
from models.small_deformable_detr import batch
from support import make_memory

from detrkit.errors import ConfigurationError
from detrkit.models.catalog import criterion_for
from detrkit.models.dab_detr import AnchorQueries
from detrkit.structures import Memory


def source(
    count: int = 6, patterns: int = 0, *, learned_content: bool = False, centers: str = "learned"
) -> AnchorQueries:
    return AnchorQueries(count=count, width=8, patterns=patterns, learned_content=learned_content, centers=centers)


def image_memory(images: int = 2) -> Memory:
    return make_memory(torch.randn(images, 8, 8), torch.randn(images, 8, 8), None, ((2, 4),))


class TestAnchors:
    @pytest.mark.parametrize("learned_content", [False, True])
    @pytest.mark.parametrize("patterns", [0, 2])
    def test_every_anchor_comes_with_every_pattern(self, patterns: int, learned_content: bool) -> None:
        anchors = source(6, patterns, learned_content=learned_content)
        queries = anchors(image_memory())
        number = 6 // max(patterns, 1)
        assert len(anchors.side_logits) == number
        assert queries.content.shape == (2, 6, 8)
        assert queries.references.shape == (2, 6, 4)
        assert queries.position is None
        for index in range(6):
            pattern, anchor = divmod(index, number)
            content = torch.zeros(8)
            if learned_content:
                content = content + anchors.content.weight[anchor]
            if patterns:
                content = content + anchors.patterns.weight[pattern]
            x, y = anchors.center_logits[anchor].tolist()
            width, height = anchors.side_logits[anchor].tolist()
            reference = torch.tensor([1 / (1 + math.exp(-logit)) for logit in (x, y, width, height)])
            for image in range(2):
                torch.testing.assert_close(queries.content[image, index], content)
                torch.testing.assert_close(queries.references[image, index], reference)

    def test_random_centers_lie_everywhere_in_the_image(self) -> None:
        anchors = source(4000, centers="random")
        assert not anchors.center_logits.requires_grad
        assert anchors.side_logits.requires_grad
        centers = anchors.center_logits.sigmoid()
        assert 0.0009 < centers.min() < 0.01  # the inverse sigmoid keeps them from the edge
        assert 0.99 < centers.max() < 0.9991
        assert centers.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
        assert centers.std(0).tolist() == pytest.approx([math.sqrt(1 / 12)] * 2, abs=0.01)

    @pytest.mark.parametrize("patterns", [0, 2])
    def test_a_grid_goes_row_by_row(self, patterns: int) -> None:
        anchors = source(9 * max(patterns, 1), patterns, centers="grid")
        assert not anchors.center_logits.requires_grad
        assert anchors.side_logits.requires_grad
        wanted = torch.tensor([[x / 6, y / 6] for y in (1, 3, 5) for x in (1, 3, 5)])
        torch.testing.assert_close(anchors.center_logits.sigmoid(), wanted)
        found = anchors(image_memory()).references[1, ..., :2]
        torch.testing.assert_close(found, wanted.repeat(max(patterns, 1), 1))

    @pytest.mark.parametrize("centers", ["learned", "random", "grid"])
    def test_only_learned_centers_move_in_training(self, centers: str) -> None:
        model = small(queries=9, centers=centers).train()
        before = {name: value.clone() for name, value in model.query_source.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            criterion_for(model)(model(batch(), TARGETS), TARGETS).total.backward()
            optimizer.step()
        moved = {name: (value - before[name]).abs() for name, value in model.query_source.state_dict().items()}
        assert moved["side_logits"].mean() > 5e-3
        if centers == "learned":
            assert moved["center_logits"].mean() > 5e-3
        else:
            assert not moved["center_logits"].any()

    def test_queries_that_are_not_learned(self) -> None:
        model = small(patterns=2, learned_content=True, learn_queries=False)
        fixed = {name for name, value in model.named_parameters() if not value.requires_grad}
        names = ("center_logits", "side_logits", "content.weight", "patterns.weight")
        assert fixed == {f"query_source.{name}" for name in names}


class TestPlace:
    BOXES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.999, 0.5, 1e-4, 0.9], [0.5, 0.0005, 0.25, 0.75]])

    @pytest.mark.parametrize("centers", ["learned", "random"])
    def test_references_are_the_boxes(self, centers: str) -> None:
        model = small(patterns=2, centers=centers)
        model.query_source.place(self.BOXES)
        references = model.stages(batch()).decoded.references[0]
        torch.testing.assert_close(references, self.BOXES.double().repeat(2, 1).expand(2, -1, -1))
        assert model.query_source.center_logits.requires_grad == (centers == "learned")

    @pytest.mark.parametrize("shape", [(2, 4), (6, 4), (3, 2), (4,)])
    def test_another_number_of_boxes(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            source(6, 2).place(torch.full(shape, 0.5))
        assert str(caught.value) == f"anchors must be boxes of shape (3, 4), not {shape}: give one box for each anchor"

    @pytest.mark.parametrize("boxes", ["abc", None, [[0.5, 0.5, 0.5, 0.5], [0.5]]], ids=str)
    def test_what_is_no_table_of_numbers(self, boxes: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"^anchors must be rows of four numbers: "):
            source(3).place(boxes)

    @pytest.mark.parametrize("value", [0.0, 1.0, -0.25, 1.5, math.nan, math.inf])
    @pytest.mark.parametrize("column", [0, 3])
    def test_a_coordinate_outside(self, column: int, value: float) -> None:
        anchors, boxes = source(3), torch.full((3, 4), 0.5)
        before = anchors.center_logits.tolist(), anchors.side_logits.tolist()
        boxes[1:, column] = value
        row = [0.5, 0.5, 0.5, 0.5]
        row[column] = value
        with pytest.raises(ConfigurationError) as caught:
            anchors.place(boxes)
        assert str(caught.value) == (
            f"anchor 1 is {row}: give centre, width and height as fractions of the image above 0 and below 1"
        )
        assert (anchors.center_logits.tolist(), anchors.side_logits.tolist()) == before
