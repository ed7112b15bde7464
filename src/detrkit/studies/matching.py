"""Is it changing matches that slow DETR down? See Sun et al. 2021 (TSP, arXiv:2011.10881), section 3.1, figures 3 and 4.

A detector learns with the matching of another one that is trained already: each object belongs to the query that finds it there, in every
layer and from the first step on. Only what queries are matched to is fixed; weights start from random numbers. The instability that is shown
for it is that of the matches that its own predictions would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from detrkit.matching.hungarian import HungarianMatcher, Matches
from detrkit.matching.transfer import HostTask
from detrkit.measures import ATTENTION_SPARSITY, MATCHING_INSTABILITY
from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Output, Target
from detrkit.studies.setting import WATCHED, dense
from detrkit.studies.study import PLAIN_COLUMNS, Study, Trial, ap_after, watched
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder


class TaughtMatcher:
    """Gives every object to the query that a trained detector finds it with.

    Args:
        matcher: matches the trained detector's last layer.
        teacher: the trained detector, of the same variant and settings.
    """

    def __init__(self, matcher: HungarianMatcher, teacher: Detector) -> None:
        self.matcher, self.teacher = matcher, teacher.eval()
        self._seen: Output | None = None

    @torch.no_grad()
    def look(self, model: Detector, arguments: tuple[ImageBatch, Sequence[Target]]) -> None:
        """Shows the teacher what the learning detector is about to see in training."""
        if model.training:
            self._seen = self.teacher.to(arguments[0].pixels.device)(arguments[0])

    def task(self, output: Output, targets: Sequence[Target], *, warn: bool = True) -> HostTask[Matches]:
        """See `HungarianMatcher.task`: the matches of the teacher's last layer, for every layer."""
        assert self._seen is not None
        if not (output.logits.isfinite().all() and output.boxes_cxcywh.isfinite().all()):
            return self.matcher.task(output, targets, warn=warn)  # which says so
        layers = len(output.logits)
        taught = replace(
            self._seen,
            logits=self._seen.logits[-1:].expand(layers, -1, -1, -1),
            boxes_cxcywh=self._seen.boxes_cxcywh[-1:].expand(layers, -1, -1, -1),
        )
        return self.matcher.task(taught, targets, warn=warn)


def learn_matches(module: TrainingModule, teacher: Path) -> None:
    """Trains with the matches of an earlier run's detector.

    Args:
        module: of a new run.
        teacher: folder of the earlier run.
    """
    card = module.model.card
    settings = {name: value for name, value in card.config.items() if name != "class_count"}
    trained = build(card.variant, classes=card.categories, preprocessing=card.preprocessing, **settings)
    trained.load_state_dict(load_file(RunFolder(teacher).last))
    criterion: Any = module.criterion
    criterion.matcher = TaughtMatcher(criterion.matcher, trained.requires_grad_(False))
    module.model.register_forward_pre_hook(criterion.matcher.look)


_TEACHER = "DETR, twice as long"

STUDY = Study(
    title="Matches that change, and matches that do not",
    claim="Training with the matches of a trained DETR is faster only in the first epochs: instability is not the main cause (TSP).",
    trials={
        "DETR": Trial("detr-compact", dense()),
        _TEACHER: Trial("detr-compact", dense(), longer=2),
        "DETR, matches of the trained one": Trial("detr-compact", dense(), change=learn_matches, after=(_TEACHER,)),
    },
    options={**WATCHED, "epochs": 4},
    columns=(
        *PLAIN_COLUMNS,
        ap_after(2),
        watched(MATCHING_INSTABILITY, epoch=2),
        watched(MATCHING_INSTABILITY),
        watched(ATTENTION_SPARSITY),
    ),
    panels=(MATCHING_INSTABILITY, ATTENTION_SPARSITY),
    single_class=True,
)
