"""Two-stage Deformable DETR: the tokens' proposals, which of them become queries, and the flow of gradients."""

from __future__ import annotations

import dataclasses
import math

import torch
from models.small_deformable_detr import CELLS, batch, half_padding, memory_of, two_stage
from torch import nn

from detrkit.layers.position_encoding import sine_code
from detrkit.layers.proposals import proposal_anchors
from detrkit.models.deformable_detr import ProposalQueries


class TestProposals:
    def source(self, count: int = 3) -> ProposalQueries:
        source = ProposalQueries(count=count, width=8, outputs=3)
        for parameter in source.parameters():
            nn.init.normal_(parameter, std=0.3)
        return source.double()

    def test_each_token_moves_its_anchor(self) -> None:
        source, memory = self.source(), memory_of(2)
        proposals = source(memory).proposals.all
        heads = source.proposals
        features = heads.norm(heads.projection(memory.tokens))
        torch.testing.assert_close(proposals.logits, heads.class_head(features))
        anchors, _ = proposal_anchors(memory)
        torch.testing.assert_close(proposals.boxes_cxcywh, (heads.box_head(features) + anchors).sigmoid())

    def test_the_best_by_the_first_score_become_queries(self) -> None:
        source, memory = self.source(), memory_of(2)
        queries = source(memory)
        best = queries.proposals.all.logits[..., 0].argsort(descending=True)[:, :3]
        for image in range(2):
            wanted = queries.proposals.all.boxes_cxcywh[image, best[image]]
            torch.testing.assert_close(queries.references[image], wanted)
            assert torch.equal(queries.proposals.rows[image], best[image])
            code = [sine_code(wanted[:, side] * 2 * math.pi, channels=4) for side in range(4)]  # x, y, width, height
            both = source.position_norm(source.position_projection(torch.cat(code, dim=-1).double()))
            torch.testing.assert_close(queries.position[image], both[:, :8])
            torch.testing.assert_close(queries.content[image], both[:, 8:])

    def test_tokens_that_are_left_out_are_all_alike_and_can_be_chosen(self) -> None:
        source, padding = self.source(count=4), half_padding()
        heads = source.proposals
        with torch.no_grad():
            heads.class_head.bias[0] = 0.0
            heads.class_head.weight[0] = 100 * heads.norm(heads.projection.bias)  # tokens with this feature are best
        memory = memory_of(padding=padding)
        queries = source(memory)
        common = heads.class_head(heads.norm(heads.projection.bias))
        assert (queries.proposals.all.boxes_cxcywh[padding] == 1).all()
        torch.testing.assert_close(queries.proposals.all.logits[padding], common.expand(7, -1))
        assert (queries.references == 1).all()
        other = dataclasses.replace(memory, tokens=memory.tokens.masked_fill(padding[..., None], math.nan))
        torch.testing.assert_close(source(other).proposals.all.logits, queries.proposals.all.logits)

    def test_more_queries_than_tokens(self) -> None:
        source = self.source(count=30)
        queries = source(memory_of(2))
        assert queries.content.shape == queries.position.shape == (2, CELLS, 8)
        order = queries.proposals.all.logits[..., 0].argsort(descending=True)[..., None].expand(-1, -1, 4)
        torch.testing.assert_close(queries.references, queries.proposals.all.boxes_cxcywh.gather(1, order))

    def test_what_becomes_of_queries_does_not_teach_proposals(self) -> None:
        model = two_stage()
        output = model(batch())
        output.boxes_cxcywh.square().sum().backward(retain_graph=True)
        for head in (model.query_source.proposals.box_head, model.query_source.proposals.class_head):
            assert all(value.grad is None or not value.grad.any() for value in head.parameters())
        assert model.query_source.position_projection.weight.grad.any()
        output.proposals.all.boxes_cxcywh.square().sum().backward()
        assert model.query_source.proposals.box_head.layers[-1].weight.grad.any()

    def test_they_are_boxes_from_the_first_layer_on(self) -> None:
        stages = two_stage().stages(batch())
        assert [each.shape[-1] for each in stages.decoded.references] == [4, 4, 4]
        assert not stages.decoded.references[0].requires_grad
