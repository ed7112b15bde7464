"""Weights never show that a backbone is dilated, so stored options have to count, also where no variant is dilated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoints.authors_files import complaint, hollow, write

from detrkit.checkpoints import load
from detrkit.models.catalog import CATALOG, FAMILIES

# A variant of each paper with a ResNet-50, and what else the authors' options say of it.
VARIANTS = {
    "detr-r50": {},
    "conditional-detr-r50": {},
    "dab-detr-r50": {"random_refpoints_xy": False},
    "anchor-detr-r50-c5": {},
    "smca-detr-r50": {},
    "smca-detr-r50-multiscale": {},
    "sam-detr-r50": {},
    "deformable-detr-r50": {},
    "dab-deformable-detr-r50": {},
    "dn-dab-detr-r50": {"random_refpoints_xy": False},
    "dn-dab-deformable-detr-r50": {},
    "dino-r50-4scale": {},
    "h-deformable-detr-r50": {"num_queries_one2one": 6, "num_queries_one2many": 1500},
    # With the heads that their mask heads have channels for.
    "detr-r50-panoptic": {"nheads": 8},
    "conditional-detr-r50-panoptic": {"nheads": 8},
    "deformable-detr-r50-panoptic": {"nheads": 8},
}


def test_every_paper_is_here() -> None:
    others = {"light_detr", "tsp_fcos", "tsp_rcnn"}  # whose files hold all settings, or are of a code without dilation
    assert {CATALOG[name].family for name in VARIANTS} == set(FAMILIES) - others


@pytest.mark.parametrize("dilation", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_dilation_counts_in_every_paper(variant: str, dilation: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"nheads": 4, **VARIANTS[variant]}
    weights = hollow(variant, attention_heads=options["nheads"])
    path = write(tmp_path / "file.pth", weights, dilation=dilation, **options)
    if dilation and variant == "smca-detr-r50-multiscale":  # whose levels must halve from one to the next
        assert "has maps of stride 8, 16, 16" in complaint(path)
        return
    model = load(path)
    assert model.card.config["backbone"] == "resnet50" + "-dc5" * dilation
    assert model.backbone.strides[-1] == (16 if dilation else 32)


def test_a_backbone_without_a_dilated_form_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "file.pth", hollow("detr-r18"), nheads=4, dilation=True)
    assert "'resnet18-dc5'" in complaint(path)
