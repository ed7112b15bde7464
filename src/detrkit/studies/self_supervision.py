"""Learning to find patches first, on images without annotations (Dai et al. 2021, UP-DETR, arXiv:2011.09094).

Patches are cut out of an image at random, and each gives its features to a group of queries, which have to find where it was. Then the
detector learns objects, with all weights of the first task but those of its class head. Unlike the paper's, the backbone starts from random
numbers and learns as well, and features are not reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.ops import box_convert, roi_align

from detrkit.data import Sample, TrainingData
from detrkit.models.detector import EncoderDecoder
from detrkit.structures import Memory, Queries, Target
from detrkit.studies.parts import width_of
from detrkit.studies.setting import WATCHED, dense
from detrkit.studies.study import PLAIN_COLUMNS, Study, Trial, ap_after
from detrkit.training.module import TrainingModule
from detrkit.training.run_folder import RunFolder

_PATCHES = 5
_SIDES = (0.15, 0.5)  # of a patch, as a share of the image's
_PATCH_PIXELS = 32  # to which a patch is resized
_LEARNED_ANEW = ("heads.class_head.", "query_source.projection.")


class PatchData(TrainingData):
    """Images whose only objects are patches of them, drawn anew in each epoch; annotations are not looked at."""

    def __getitem__(self, index: int) -> Sample:
        """See `TrainingData`."""
        sample = super().__getitem__(index)
        generator = self._generator(index)
        sides = torch.empty(_PATCHES, 2).uniform_(*_SIDES, generator=generator)
        centers = sides / 2 + torch.rand(_PATCHES, 2, generator=generator) * (1 - sides)
        boxes_cxcywh = torch.cat([centers, sides], dim=-1)
        return sample._replace(target=Target(torch.zeros(_PATCHES, dtype=torch.int64), boxes_cxcywh))


class PatchQueries(nn.Module):
    """Queries in as many groups as there are patches, with the features of their patch for content; groups do not see each other.

    Args:
        plain: the detector's own queries.
        channels: of the backbone's last level.
        width: D.
    """

    def __init__(self, plain: nn.Module, *, channels: int, width: int) -> None:
        super().__init__()
        self.plain, self.projection = plain, nn.Linear(channels, width)
        self._features: Tensor | None = None

    def look(self, model: EncoderDecoder, arguments: Sequence[Any]) -> None:
        """Looks at the patches of a batch, before the detector sees the images; the arguments are those of its forward."""
        self._features = None
        batch, targets = (*arguments, None)[:2]
        if targets is None:
            return
        scales = batch.image_sizes().repeat(1, 2)  # (B, 4)
        corners = [
            box_convert(target.boxes_cxcywh, "cxcywh", "xyxy") * scale
            for target, scale in zip(targets, scales, strict=True)
        ]
        patches = roi_align(batch.pixels, corners, _PATCH_PIXELS, aligned=True)  # (B · P, 3, side, side)
        features = model.backbone.features(patches)[-1].mean((2, 3))
        self._features = self.projection(features).unflatten(0, (len(targets), -1))  # (B, P, D)

    def forward(self, memory: Memory, targets: Sequence[Target] | None = None) -> Queries:  # noqa: ARG002 - seen before
        """The detector's queries; with patches, groups of them."""
        queries: Queries = self.plain(memory)
        if self._features is None:
            return queries
        count, patches = queries.content.shape[1], self._features.shape[1]
        group = torch.arange(count, device=queries.content.device) * patches // count  # (Q,)
        content = self._features[:, group].to(queries.content.dtype)
        return replace(queries, content=content, mask=(group[:, None] == group)[None, None])


def find_patches(module: TrainingModule) -> None:
    """The detector has to find patches instead of objects."""
    model, data = module.model, module.data
    assert isinstance(model, EncoderDecoder)
    module.learn_from(PatchData(data.dataset, data.transform, data.seed, mixed_epochs=data.mixed_epochs))
    source = PatchQueries(model.query_source, channels=model.backbone.channels[-1], width=width_of(model))
    model.query_source = source
    model.register_forward_pre_hook(source.look)


def start_from_patches(module: TrainingModule, patches: Path, *, part: str = "") -> None:
    """Starts with what an earlier run has learned from patches.

    Args:
        module: of a new run.
        patches: folder of the earlier run.
        part: what the names of the weights that are taken begin with.
    """
    weights = load_file(RunFolder(patches).last)
    kept = {
        name.replace("query_source.plain.", "query_source."): value
        for name, value in weights.items()
        if name.startswith(part) and not name.startswith(_LEARNED_ANEW)
    }
    module.model.load_state_dict({**module.model.state_dict(), **kept})


_PATCHES_FIRST = "finding patches"

STUDY = Study(
    title="Finding patches of images before objects",
    claim="A DETR that has learned to find patches of images without annotations learns objects sooner and better (UP-DETR).",
    trials={
        _PATCHES_FIRST: Trial("detr-compact", dense(), change=find_patches, shown=False),
        "DETR": Trial("detr-compact", dense()),
        "DETR, twice as long": Trial("detr-compact", dense(), longer=2),
        "DETR after finding patches": Trial(
            "detr-compact", dense(), change=start_from_patches, after=(_PATCHES_FIRST,)
        ),
        "DETR, backbone after finding patches": Trial(
            "detr-compact", dense(), change=partial(start_from_patches, part="backbone."), after=(_PATCHES_FIRST,)
        ),
    },
    options={**WATCHED, "epochs": 4},
    columns=(*PLAIN_COLUMNS, ap_after(1), ap_after(2)),
    single_class=True,
)
