"""Queries have no order, and what the first self-attention does among queries without content (Carion et al. 2020, arXiv:2005.12872, section 3.2 and A.4).

Values of DETR's first self-attention are projections of a content that is zero in every query. So they are all the same, and whatever the
weights, each query gets the same vector: this attention cannot tell queries anything of each other. Where content is learned, it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.evaluation.runner import loader_of
from detrkit.models.detector import Detector, EncoderDecoder
from detrkit.structures import Output, Queries
from detrkit.studies.parts import decoder_layers
from detrkit.studies.setting import WATCHED, anchored, dense
from detrkit.studies.study import PLAIN_COLUMNS, Figures, Study, Trial, further
from detrkit.training.ground_truth import RunData
from detrkit.training.module import TrainingModule

DIFFERENCE, SPREAD = "difference", "spread"
_IMAGES = 16


class NoAttention(nn.Module):
    """What stands where attention among queries was left out: nothing is added to the queries."""

    def forward(self, content: Tensor, *_: Any, **__: Any) -> Tensor:
        """Zeros, of the shape of what would be added."""
        return torch.zeros_like(content)


def without_first_self_attention(module: TrainingModule) -> None:
    """Leaves out attention among queries in the first decoder layer."""
    decoder_layers(module.model)[0].self_attention = NoAttention()


@torch.no_grad()
def look(model: Detector, data: RunData) -> Figures:
    """How far predictions change if queries are permuted, and how far apart the queries are that the first self-attention returns.

    Args:
        model: after training.
        data: of which some validation images are shown to it.

    Returns:
        `difference`: the largest, of scores and boxes, after queries are put back into order. `spread`: the standard deviation over queries of what the
        first self-attention adds, over the norm of what it adds.
    """
    assert isinstance(model, EncoderDecoder)
    if data.validation is None:
        return {}
    model.eval()
    first: nn.Module = decoder_layers(model)[0].self_attention
    added: list[Tensor] = []
    handle = first.register_forward_hook(lambda *arguments: added.append(arguments[2]))
    images = range(min(_IMAGES, len(data.validation)))
    batches = [batch for batch, _ in loader_of(model, data.validation, batch_size=1, workers=0, images=images)]
    plain = [model(batch) for batch in batches]
    handle.remove()
    order = torch.randperm(plain[0].logits.shape[2], generator=torch.Generator().manual_seed(0))
    with permuted_queries(model, order):
        permuted = [model(batch) for batch in batches]
    differences = [_difference(*pair, order) for pair in zip(plain, permuted, strict=True)]
    all_added = torch.cat(added)  # (images, Q, D)
    spread = all_added.std(1).norm(dim=-1) / all_added.norm(dim=-1).mean(1).clamp(min=1e-12)
    return {DIFFERENCE: max(differences), SPREAD: float(spread.mean())}


def _difference(plain: Output, permuted: Output, order: Tensor) -> float:
    """The largest, of scores and boxes, between predictions and those of permuted queries in their old order."""
    pairs = ((plain.logits.sigmoid(), permuted.logits.sigmoid()), (plain.boxes_cxcywh, permuted.boxes_cxcywh))
    return max(float((before[:, :, order] - after).abs().max()) for before, after in pairs)


@contextmanager
def permuted_queries(model: EncoderDecoder, order: Tensor) -> Iterator[None]:
    """While the context is open, the query source returns its queries in another order.

    Args:
        model: whose queries are permuted.
        order: (Q,) int64, the query that comes to each place.
    """

    def permute(module: nn.Module, arguments: Any, queries: Queries) -> Queries:  # noqa: ARG001 - torch requires these parameters
        def permuted(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[:, order]

        position, references = permuted(queries.position), permuted(queries.references)
        return replace(queries, content=queries.content[:, order], position=position, references=references)

    handle = model.query_source.register_forward_hook(permute)
    try:
        yield
    finally:
        handle.remove()


def _pair(variant: str, name: str, options: dict[str, Any]) -> dict[str, Trial]:
    return {
        name: Trial(variant, options, measure=look),
        f"{name}, first self-attention left out": Trial(
            variant, options, change=without_first_self_attention, measure=look
        ),
    }


STUDY = Study(
    title="Queries have no order, and learn nothing of each other in the first layer",
    claim="Queries are a set, and DETR's first self-attention can be skipped, since its queries carry no content yet (DETR).",
    trials={
        **_pair("detr-compact", "DETR", dense()),
        **_pair("dab-detr-compact", "DAB-DETR with learned content", anchored(learned_content=True)),
    },
    options={**WATCHED, "epochs": 4},
    columns=(
        *PLAIN_COLUMNS,
        further(DIFFERENCE, "if permuted", digits=7),
        further(SPREAD, digits=7),
    ),
    single_class=True,
)
