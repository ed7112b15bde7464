"""Comparisons of what detectors find that rounding cannot decide: of two equal proposals or scores, either may come first."""

from __future__ import annotations

import dataclasses

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from detrkit.structures import LayerOutput, Output, Proposals, Queries

TIE = 1e-4  # scores that are nearer than this may change places, since processors round differently


def assert_same_output(found: Output, wanted: Output, tolerance: float, scores: Tensor | None = None) -> None:
    """Compares every layer, query by query.

    Args:
        found: what is examined.
        wanted: what it should be.
        tolerance: absolute and relative, for logits; boxes may differ absolutely by no more than 1e-5.
        scores: (B, Q) what the queries of `wanted` were chosen by (`chosen_scores`): only queries whose scores are nearly equal may
            change places. None where queries are not chosen, so that none may.
    """
    if scores is not None:
        found = in_the_order_of(wanted, found, scores)
    torch.testing.assert_close(found.logits, wanted.logits, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.boxes_cxcywh, wanted.boxes_cxcywh, atol=min(tolerance, 1e-5), rtol=tolerance)
    if found.proposals is not None and wanted.proposals is not None:
        assert_same_proposals(found.proposals, wanted.proposals, tolerance)


def assert_same_proposals(found: Proposals, wanted: Proposals, tolerance: float) -> None:
    """Compares what tokens propose, token by token, of all tokens or of the chosen ones."""
    assert (found.all is None) == (wanted.all is None)
    assert (found.chosen is None) == (wanted.chosen is None)
    for mine, theirs in ((found.all, wanted.all), (found.chosen, wanted.chosen)):
        if mine is not None and theirs is not None:
            assert_same_layer(mine, theirs, tolerance)


def assert_same_layer(found: LayerOutput, wanted: LayerOutput, tolerance: float) -> None:
    """Compares the predictions of one layer."""
    torch.testing.assert_close(found.logits, wanted.logits, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.boxes_cxcywh, wanted.boxes_cxcywh, atol=min(tolerance, 1e-5), rtol=tolerance)


def chosen_scores(queries: Queries) -> Tensor | None:
    """(B, Q) the score of the proposal that each query was made of, in the order of the queries; None for a model of one stage.

    Deformable DETR and its descendants choose by the first class, DINO by the best one.
    """
    if queries.proposals is None:
        return None
    if queries.proposals.chosen is not None:
        return queries.proposals.chosen.logits.detach().amax(-1)
    assert queries.proposals.all is not None
    assert queries.proposals.rows is not None
    return queries.proposals.all.logits[..., 0].gather(1, queries.proposals.rows).detach()


def in_the_order_of(wanted: Output, found: Output, scores: Tensor) -> Output:
    """`found` with queries moved to where they are most like those of `wanted`, each no further than equal scores reach."""
    ours, theirs = (
        torch.cat([each.logits, each.boxes_cxcywh], dim=-1).detach().transpose(0, 1).transpose(1, 2).flatten(2)
        for each in (wanted, found)
    )  # (B, Q, L * (K + 4))
    distances = torch.cdist(ours.double(), theirs.double())  # (B, Q, Q)
    may_change = (scores[:, :, None] - scores[:, None]).abs() <= TIE
    forbidden = 1 + distances.amax() * distances.shape[-1]
    order = torch.stack(
        [
            torch.from_numpy(linear_sum_assignment(each.numpy())[1])
            for each in torch.where(may_change, distances, forbidden)
        ]
    )[..., None]  # (B, Q, 1)

    def ordered(values: Tensor) -> Tensor:
        """(..., B, Q, C) in that order."""
        return values.gather(-2, order.expand(*values.shape[:-3], -1, -1, values.shape[-1]))

    proposals = found.proposals
    if proposals is not None and proposals.chosen is not None:
        chosen = proposals.chosen
        proposals = dataclasses.replace(
            proposals, chosen=LayerOutput(ordered(chosen.logits), ordered(chosen.boxes_cxcywh))
        )
    return dataclasses.replace(
        found, logits=ordered(found.logits), boxes_cxcywh=ordered(found.boxes_cxcywh), proposals=proposals
    )
