"""How many queries there should be, and whether every layer needs as many (DETR, section 4.1 and figure 12 of the appendix)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from detrkit.evaluation.runner import loader_of
from detrkit.layers.heads import DetectionHeads
from detrkit.layers.position_encoding import reference_code
from detrkit.layers.references import ReferenceTrail
from detrkit.measures import REPEATED_SHARE, USED_QUERIES
from detrkit.models.conditional_detr import EPSILON, ConditionalDecoder
from detrkit.models.detector import Detector
from detrkit.structures import Decoded, Memory, Queries
from detrkit.studies.setting import WATCHED, dense
from detrkit.studies.study import PLAIN_COLUMNS, STEPS, Figures, Study, Trial, further, watched
from detrkit.training.ground_truth import RunData
from detrkit.training.module import TrainingModule

ROAMING = "roaming"
_COUNTS = (5, 20, 100, 200)
_FUNNEL = (100, 50, 25)
_IMAGES = 200


class FunnelDecoder(ConditionalDecoder):
    """Conditional DETR's decoder, whose later layers work on fewer queries: the best of those that the layer before had. The others keep their states.

    Attributes:
        counts: number of queries in each layer, descending.
    """

    counts: tuple[int, ...]

    def forward(self, queries: Queries, memory: Memory, heads: torch.nn.Module) -> Decoded:
        """See `ConditionalDecoder.forward`."""
        assert isinstance(heads, DetectionHeads)
        assert queries.references is not None
        assert queries.position is not None
        trail, content = ReferenceTrail(queries.references, epsilon=EPSILON), queries.content
        states: list[Tensor] = []
        kept_rows = torch.arange(content.shape[1], device=content.device).expand(
            len(content), -1
        )  # (B, queries of the layer)
        spatial = reference_code(queries.references, width=content.shape[-1]).to(content.dtype)  # (B, Q, D)
        for index, layer in enumerate(self.layers):
            if index > 0:
                trail.stay()
                scores = heads.class_head(states[-1]).amax(-1).gather(1, kept_rows)
                kept_rows = kept_rows.gather(1, scores.topk(self.counts[index], dim=1).indices)
            rows = kept_rows[..., None].expand(-1, -1, content.shape[-1])
            kept, position, place = (torch.gather(each, 1, rows) for each in (content, queries.position, spatial))
            scaled = place if index == 0 else place * self.position_scale(kept)
            content = content.scatter(1, rows, layer(kept, position, memory, spatial=scaled))
            states.append(self.norm(content))
        return Decoded(torch.stack(states), trail.base_logits(), trail.references())


def funnel(module: TrainingModule, *, counts: tuple[int, ...]) -> None:
    """Gives every layer its number of queries; weights are those that the model has."""
    decoder = module.model.get_submodule("decoder")
    assert isinstance(decoder, ConditionalDecoder)
    decoder.__class__ = FunnelDecoder
    decoder.counts = counts  # type: ignore[assignment]


@torch.no_grad()
def look(model: Detector, data: RunData) -> Figures:
    """How far each query roams: the standard deviation of its boxes' centres over the images, as a share of the image, a mean over the queries."""
    if data.validation is None:
        return {}
    model.eval()
    images = range(min(_IMAGES, len(data.validation)))
    centers: list[Tensor] = [
        model(batch).boxes_cxcywh[-1, ..., :2]
        for batch, _ in loader_of(model, data.validation, batch_size=1, workers=0, images=images)
    ]
    return {ROAMING: float(torch.cat(centers).var(0, correction=0).sum(-1).sqrt().mean())}


def _with(count: int) -> Trial:
    return Trial("conditional-detr-compact", dense(queries=count), measure=look)


STUDY = Study(
    title="How many queries",
    claim="More queries than objects are needed, and each has a place of its own (DETR).",
    trials={
        **{f"{count} queries": _with(count) for count in _COUNTS},
        f"{_FUNNEL[0]} queries, of which the later layers move {_FUNNEL[1]} and {_FUNNEL[2]}": Trial(
            "conditional-detr-compact",
            {**dense(queries=_FUNNEL[0]), "watch": None},  # which compares layers query by query
            change=partial(funnel, counts=_FUNNEL),
            measure=look,
        ),
        # As in other studies, and so for longer: without the points that Conditional DETR's boxes start from.
        "DETR, 30 queries": Trial("detr-compact", {**dense(), "epochs": 4}, measure=look),
    },
    options={**WATCHED, "epochs": 3},
    columns=(*PLAIN_COLUMNS, STEPS, watched(REPEATED_SHARE), watched(USED_QUERIES), further(ROAMING)),
    panels=(REPEATED_SHARE,),
    single_class=True,
)
