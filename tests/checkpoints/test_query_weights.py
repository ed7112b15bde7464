"""Queries of a trained detector for a new one: points with patterns, learned codes, and boxes, from the authors' files and from ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.authors_files import SMALL, write

from detrkit.checkpoints import save, to_official
from detrkit.checkpoints.query_weights import load_queries
from detrkit.errors import CheckpointError
from detrkit.models.catalog import build
from detrkit.models.detector import Detector

NAMES = {
    "anchor-detr-compact": ["patterns.weight", "points"],
    "smca-detr-compact": ["position.weight"],
    "smca-detr-compact-multiscale": ["position.weight"],
    "sam-detr-compact": ["logits"],
    "dn-dab-detr-compact": ["center_logits", "side_logits"],
}
CODES = "query_source.denoising."  # of classes


def small(variant: str, **changes: Any) -> Detector:
    return build(variant, **{**SMALL, **changes})


def complaint(model: Detector, path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_queries(model, path)
    return str(caught.value)


@pytest.mark.parametrize("authors", [True, False])
@pytest.mark.parametrize("variant", list(NAMES))
def test_queries_come_from_a_file_and_nothing_else_does(tmp_path: Path, variant: str, authors: bool) -> None:
    trained, model = small(variant), small(variant, learn_queries=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if authors:
        path = write(tmp_path / "file.pth", to_official(trained.state_dict(), trained), nheads=4)
    else:
        path = save(trained, tmp_path / "file.safetensors")
    load_queries(model, path)
    parts = {f"query_source.{name}" for name in NAMES[variant]}
    assert {name for name in before if name.startswith("query_source.") and not name.startswith(CODES)} == parts
    for name, value in model.state_dict().items():
        assert torch.equal(value, (trained.state_dict() if name in parts else before)[name]), name
    learned = {name for name, value in model.named_parameters() if value.requires_grad}
    assert not learned & parts
    assert {name for name in before if name.startswith(CODES)} <= learned


def test_detectors_with_codes_of_other_classes_can_share_queries(tmp_path: Path) -> None:
    trained, model = small("dn-dab-detr-compact", classes=["a"]), small("dn-dab-detr-compact", classes=["b", "c"])
    codes = model.query_source.denoising.embedding.weight.clone()
    load_queries(model, save(trained, tmp_path / "file.safetensors"))
    assert torch.equal(model.query_source.side_logits, trained.query_source.side_logits)
    assert torch.equal(model.query_source.denoising.embedding.weight, codes)


@pytest.mark.parametrize(
    ("variant", "changes", "name", "found", "wanted"),
    [
        ("anchor-detr-compact", {"queries": 9}, "points", (3, 2), (2, 2)),
        ("anchor-detr-compact", {"patterns": 2, "queries": 4}, "patterns.weight", (2, 64), (3, 64)),
        ("anchor-detr-compact", {"patterns": 2}, "points", (3, 2), (2, 2)),  # as many queries
        ("smca-detr-compact", {"queries": 7}, "position.weight", (7, 64), (6, 64)),
        ("smca-detr-compact", {"width": 96}, "position.weight", (6, 96), (6, 64)),
        ("sam-detr-compact", {"queries": 7}, "logits", (7, 4), (6, 4)),
    ],
)
def test_another_number_is_refused(
    tmp_path: Path, variant: str, changes: dict[str, Any], name: str, found: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    path, model = save(small(variant, **changes), tmp_path / "file.safetensors"), small(variant)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert complaint(model, path) == (
        f"{path} has other queries than this {variant}: '{name}' has the shape {found} instead of {wanted}; "
        "train with the same settings for queries and the same width"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("variant", list(NAMES))
def test_queries_of_another_kind_are_refused(tmp_path: Path, variant: str) -> None:
    path = save(small("dab-detr-compact"), tmp_path / "file.safetensors")
    assert complaint(small(variant), path) == (
        f"{path} holds a dab-detr-compact, whose queries a {variant} cannot take: give a detector of the same paper, "
        "which must be one with the setting learn_queries"
    )


@pytest.mark.parametrize("given", ["detr-compact", "smca-detr-compact-multiscale"])
def test_another_papers_learned_queries_are_refused_although_they_look_the_same(tmp_path: Path, given: str) -> None:
    path = save(small(given), tmp_path / "file.safetensors")
    assert complaint(small("smca-detr-compact"), path).startswith(
        f"{path} holds a {given}, whose queries a smca-detr-compact cannot take: "
    )


def test_a_file_that_fits_several_variants_says_what_to_do(tmp_path: Path) -> None:
    model = small("anchor-detr-r50-c5")
    path = write(tmp_path / "file.pth", to_official(model.state_dict(), model))
    assert complaint(model, path) == (
        f"{path} could be any of anchor-detr-r50-c5, anchor-detr-r50-dc5, between which its contents do not decide: say which one with "
        "`variant`; load it with detrkit.load(path, variant=...), save it with detrkit.save, and give that file"
    )


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = small("smca-detr-compact")
    with torch.no_grad():
        source.query_source.position.weight[1, 2] = float("inf")
    path = save(source, tmp_path / "trained.safetensors")
    with pytest.raises(CheckpointError, match=r"has NaN or infinity in 'position\.weight'"):
        load_queries(small("smca-detr-compact"), path)
