"""Two stages of Deformable DETR: what tokens propose, which proposals become queries, and where gradients go."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from models.small_deformable_detr import CELLS, batch, half_padding, memory_of, two_stage
from torch import nn

from detrkit.layers.distinct import best_distinct
from detrkit.layers.position_encoding import sine_code
from detrkit.models.deformable_detr import ProposalQueries, proposal_anchors


class TestProposals:
    def source(self, count: int = 3, **changes: Any) -> ProposalQueries:
        source = ProposalQueries(count=count, width=8, outputs=3, **changes)
        for parameter in source.parameters():
            nn.init.normal_(parameter, std=0.3)
        return source.double()

    def test_each_token_moves_its_anchor(self) -> None:
        source, memory = self.source(), memory_of(2)
        proposals = source(memory).proposals
        features = source.norm(source.projection(memory.tokens))
        torch.testing.assert_close(proposals.logits, source.classes(features))
        anchors, _ = proposal_anchors(memory)
        torch.testing.assert_close(proposals.boxes_cxcywh, (source.boxes(features) + anchors).sigmoid())

    def test_the_best_by_the_first_score_become_queries(self) -> None:
        source, memory = self.source(), memory_of(2)
        queries = source(memory)
        best = queries.proposals.logits[..., 0].argsort(descending=True)[:, :3]
        for image in range(2):
            wanted = queries.proposals.boxes_cxcywh[image, best[image]]
            torch.testing.assert_close(queries.references[image], wanted)
            code = [sine_code(wanted[:, side] * 2 * math.pi, channels=4) for side in range(4)]  # x, y, width, height
            both = source.position_norm(source.position_projection(torch.cat(code, dim=-1).double()))
            torch.testing.assert_close(queries.position[image], both[:, :8])
            torch.testing.assert_close(queries.content[image], both[:, 8:])

    def test_or_carry_learned_content_by_their_rank(self) -> None:
        source, memory = self.source(learned_content=True), memory_of(2)
        queries = source(memory)
        best = queries.proposals.logits[..., 0].argsort(descending=True)[:, :3]
        for image in range(2):
            wanted = queries.proposals.boxes_cxcywh[image, best[image]]
            torch.testing.assert_close(queries.references[image], wanted)
            code = [sine_code(wanted[:, side] * 2 * math.pi, channels=4) for side in range(4)]
            both = source.position_norm(source.position_projection(torch.cat(code, dim=-1).double()))
            torch.testing.assert_close(queries.position[image], both[:, :8])
            assert torch.equal(queries.content[image], source.embedding.weight)
        queries.content.sum().backward()
        assert torch.equal(source.embedding.weight.grad, torch.full((3, 8), 2.0, dtype=torch.float64))

    def test_or_the_best_that_repeat_no_better_one(self) -> None:
        source, memory = self.source(count=5, distinct_overlap=0.3), memory_of(2)
        with torch.no_grad():
            source.boxes.layers[-1].bias[2:] = 3.0  # large boxes, many of which overlap
        queries = source(memory)
        scores, boxes = queries.proposals.logits[..., 0], queries.proposals.boxes_cxcywh
        best = best_distinct(scores, boxes, count=5, overlap=0.3)
        assert not torch.equal(best, scores.topk(5).indices)
        for image in range(2):
            assert torch.equal(queries.references[image], boxes[image, best[image]])

    def test_tokens_that_are_left_out_are_all_alike_and_can_be_chosen(self) -> None:
        source, padding = self.source(count=4), half_padding()
        with torch.no_grad():
            source.classes.weight[0], source.classes.bias[0] = 0.0, 0.0
            source.classes.weight[0] = 100 * source.norm(source.projection.bias)  # best is who has this feature
        memory = memory_of(padding=padding)
        queries = source(memory)
        common = source.classes(source.norm(source.projection.bias))
        assert (queries.proposals.boxes_cxcywh[padding] == 1).all()
        torch.testing.assert_close(queries.proposals.logits[padding], common.expand(7, -1))
        assert (queries.references == 1).all()
        other = dataclasses.replace(memory, tokens=memory.tokens.masked_fill(padding[..., None], math.nan))
        assert torch.equal(source(other).proposals.logits, queries.proposals.logits)

    @pytest.mark.parametrize("learned_content", [False, True])
    def test_more_queries_than_tokens(self, learned_content: bool) -> None:
        source = self.source(count=30, learned_content=learned_content)
        queries = source(memory_of(2))
        assert queries.content.shape == queries.position.shape == (2, CELLS, 8)
        order = queries.proposals.logits[..., 0].argsort(descending=True)[..., None].expand(-1, -1, 4)
        torch.testing.assert_close(queries.references, queries.proposals.boxes_cxcywh.gather(1, order))
        if learned_content:
            assert torch.equal(queries.content[1], source.embedding.weight[:CELLS])

    def test_what_becomes_of_queries_does_not_teach_proposals(self) -> None:
        model = two_stage()
        output = model(batch())
        output.boxes_cxcywh.square().sum().backward(retain_graph=True)
        for head in (model.query_source.boxes, model.query_source.classes):
            assert all(value.grad is None or not value.grad.any() for value in head.parameters())
        assert model.query_source.position_projection.weight.grad.any()
        output.proposals.boxes_cxcywh.square().sum().backward()
        assert model.query_source.boxes.layers[-1].weight.grad.any()

    def test_they_are_boxes_from_the_first_layer_on(self) -> None:
        stages = two_stage().stages(batch())
        assert [each.shape[-1] for each in stages.decoded.references] == [4, 4, 4]
        assert not stages.decoded.references[0].requires_grad
