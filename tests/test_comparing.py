"""The comparisons themselves: what they let pass and what they do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from comparing import TIE, assert_same_output, chosen_scores

from detrkit.structures import LayerOutput, Output, Proposals, Queries


def swapped(output: Output, first: int, second: int) -> Output:
    order = torch.arange(output.logits.shape[2])
    order[[first, second]] = order[[second, first]]
    return dataclasses.replace(output, logits=output.logits[:, :, order], boxes_cxcywh=output.boxes_cxcywh[:, :, order])


def test_only_queries_of_nearly_equal_scores_may_change_places() -> None:
    output = Output(torch.randn(2, 1, 4, 3), torch.rand(2, 1, 4, 4))
    scores = torch.tensor([[3.0, 2.0, 2.0 - TIE / 2, 1.0]])
    assert_same_output(output, output, 1e-6, scores)
    assert_same_output(swapped(output, 1, 2), output, 1e-6, scores)
    for places in ((0, 1), (2, 3), (0, 3)):
        with pytest.raises(AssertionError):
            assert_same_output(swapped(output, *places), output, 1e-6, scores)
    with pytest.raises(AssertionError):
        assert_same_output(swapped(output, 1, 2), output, 1e-6)


def test_other_values_and_other_proposals_are_seen() -> None:
    proposals = Proposals(LayerOutput(torch.randn(1, 5, 3), torch.rand(1, 5, 4)))
    output = Output(torch.randn(2, 1, 4, 3), torch.rand(2, 1, 4, 4), proposals)
    scores = torch.full((1, 4), 2.0)
    moved = Proposals(dataclasses.replace(proposals.all, logits=proposals.all.logits.flip(1)))
    changed = output.logits.clone()
    changed[1, 0, 2, 1] += 0.01
    for other in (dataclasses.replace(output, proposals=moved), dataclasses.replace(output, logits=changed)):
        with pytest.raises(AssertionError):
            assert_same_output(other, output, 1e-4, scores)


def test_scores_of_the_chosen_are_those_of_their_rows() -> None:
    proposals = LayerOutput(torch.randn(2, 6, 3), torch.rand(2, 6, 4))
    rows = torch.tensor([[4, 1, 2], [0, 5, 3]])
    queries = Queries(torch.zeros(2, 3, 8), None, torch.rand(2, 3, 4), Proposals(all=proposals, rows=rows))
    wanted = [[proposals.logits[image, row, 0] for row in rows[image]] for image in range(2)]
    torch.testing.assert_close(chosen_scores(queries), torch.tensor(wanted))
    assert chosen_scores(dataclasses.replace(queries, proposals=None)) is None
