"""Every paper's files are recognised by their own names and shapes, whatever their descendants' files look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from detrkit.checkpoints import load
from detrkit.checkpoints.recognition import PAPERS, TABLES, recognise
from detrkit.checkpoints.shared import Signature, matches
from detrkit.errors import CheckpointError
from detrkit.models.catalog import FAMILIES

CASES = {
    "anchor_detr_r50_c5": "anchor_detr",
    "anchor_detr_r50_c5_plain": "anchor_detr",
    "anchor_detr_r50_dc5": "anchor_detr",
    "conditional_detr_r50": "conditional_detr",
    "conditional_detr_r50_dc5": "conditional_detr",
    "dab_deformable_detr_r50": "dab_deformable_detr",
    "dab_detr_r50": "dab_detr",
    "dab_detr_r50_3patterns": "dab_detr",
    "dab_detr_r50_dc5": "dab_detr",
    "deformable_detr_r50": "deformable_detr",
    "deformable_detr_refine": "deformable_detr",
    "deformable_detr_single_scale": "deformable_detr",
    "deformable_detr_single_scale_dc5": "deformable_detr",
    "deformable_detr_two_stage": "deformable_detr",
    "deimv2_atto": "deim",
    "deimv2_femto": "deim",
    "deimv2_n": "deim",
    "deimv2_pico": "deim",
    "detr_r50": "detr",
    "detr_r50_dc5": "detr",
    "detr_r50_panoptic": "detr_segmentation",
    "dfine_n": "d_fine",
    "dfine_s": "d_fine",
    "dino_r50_4scale": "dino",
    "dn_dab_detr_r50": "dn_detr",
    "h_deformable_detr_r50": "h_detr",
    "rtdetr_r18vd": "rt_detr",
    "rtdetr_r50vd": "rt_detr",
    "sam_detr_r50": "sam_detr",
    "sam_detr_r50_dc5": "sam_detr",
    "sam_detr_r50_multiscale": "sam_detr",
    "sam_detr_r50_smca": "sam_detr",
    "smca_detr_r50": "smca_detr",
    "smca_detr_r50_multiscale": "smca_multiscale",
    "tsp_fcos_r50": "tsp_fcos",
    "tsp_rcnn_r50": "tsp_rcnn",
}


def case_tensors(shared: Path, case: str) -> dict[str, Tensor]:
    """A model's names and shapes as its authors write them; all zeros share one stored number."""
    manifest = json.loads((shared / "golden" / case / "manifest.json").read_text())
    return {name: torch.zeros(()).expand(shape) for name, shape in manifest["tensors"].items()}


def family_of(tensors: dict[str, Tensor]) -> str | None:
    recognised = recognise(tensors)
    return recognised and recognised.family


def complaint(path: Path, tensors: dict[str, Tensor], **options: str) -> str:
    torch.save({"model": tensors}, path)
    with pytest.raises(CheckpointError) as caught:
        load(path, **options)
    return str(caught.value)


def test_every_golden_model_has_its_paper_here(shared: Path) -> None:
    manifests = (path for path in (shared / "golden").glob("*/manifest.json"))
    assert {path.parent.name for path in manifests if "tensors" in json.loads(path.read_text())} == set(CASES)


@pytest.mark.parametrize("case", list(CASES))
def test_every_golden_model_is_its_papers(shared: Path, case: str) -> None:
    assert family_of(case_tensors(shared, case)) == CASES[case]


@pytest.mark.parametrize("case", list(CASES))
def test_ancestors_come_after_their_descendants(shared: Path, case: str) -> None:
    """The other signatures that fit are those of ancestors: another order of the papers could only give an ancestor."""
    shapes = {name: tuple(tensor.shape) for name, tensor in case_tensors(shared, case).items()}
    fitting = [family for family, paper in PAPERS.items() if paper.wrote(shapes)]
    ancestors = {
        "dn_detr": ["dn_detr", "dab_detr"],
        "h_detr": ["h_detr", "deformable_detr"],
        "smca_detr": ["smca_detr", "detr"],
        "smca_multiscale": ["smca_multiscale", "smca_detr", "detr"],
        "deim": ["deim", "d_fine"],
        "detr_segmentation": ["detr_segmentation", "other_segmentation"],
    }
    assert fitting == ancestors.get(CASES[case], [CASES[case]])


@pytest.mark.parametrize("size", ["atto", "femto"])
def test_trained_weights_without_what_only_training_needs(shared: Path, size: str) -> None:
    assert family_of(load_file(shared / "weights" / f"deimv2_hgnetv2_{size}_coco.safetensors")) == "deim"


TINY_RESNET = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 64], "embedding_size": 8, "layer_type": "basic"}
TINY_LAYERS = {"encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}


@pytest.mark.parametrize(
    ("name", "settings", "family"),
    [
        ("Detr", {"d_model": 32}, "detr"),
        ("ConditionalDetr", {"d_model": 32}, "conditional_detr"),
        ("DeformableDetr", {"d_model": 32}, "deformable_detr"),
        ("DeformableDetr", {"d_model": 32, "two_stage": True, "with_box_refine": True}, "deformable_detr"),
        ("DabDetr", {"hidden_size": 32}, "dab_detr"),
        ("RTDetr", {"d_model": 32}, "rt_detr"),
        ("RTDetrV2", {"d_model": 32}, "rt_detr_v2"),
        ("DFine", {"d_model": 32}, "d_fine"),
    ],
)
def test_files_that_transformers_saves(tmp_path: Path, name: str, settings: dict[str, Any], family: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the dev extra: pip install detrkit[dev]")
    real_time = family in ("rt_detr", "rt_detr_v2", "d_fine")
    if real_time:
        sizes = {"encoder_hidden_dim": 32, "decoder_in_channels": [32, 32, 32], "encoder_in_channels": [16, 32, 64]}
        backbone = transformers.RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"], **TINY_RESNET)
    else:
        stages = ["stage2", "stage3", "stage4"] if family == "deformable_detr" else ["stage4"]
        sizes, backbone = {"use_timm_backbone": False}, transformers.ResNetConfig(out_features=stages, **TINY_RESNET)
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone, **(sizes if family != "dab_detr" else {}), **settings, **TINY_LAYERS
    )
    getattr(transformers, f"{name}ForObjectDetection")(config).save_pretrained(tmp_path)
    assert family_of(load_file(tmp_path / "model.safetensors")) == family


def test_a_classifier_is_nobodys() -> None:
    assert recognise({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)}) is None


def test_what_can_be_built_can_be_loaded() -> None:
    assert list(TABLES) == list(FAMILIES)


def test_a_paper_that_is_not_built_is_named(shared: Path, tmp_path: Path) -> None:
    for case in ("dfine_n", "rtdetr_r18vd"):
        tensors, path = case_tensors(shared, case), tmp_path / f"{case}.pth"
        name = PAPERS[CASES[case]].name
        assert CASES[case] not in TABLES
        assert complaint(path, tensors) == f"{path} is a checkpoint of {name}, which detrkit does not build yet"


def test_another_papers_variant_is_refused_by_both_names(shared: Path, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    assert complaint(path, case_tensors(shared, "dn_dab_detr_r50"), variant="detr-r50") == (
        f"{path} holds a DN-DETR, not a detr-r50: leave `variant` out"
    )
    assert complaint(path, case_tensors(shared, "h_deformable_detr_r50"), variant="deformable-detr-r50") == (
        f"{path} holds an H-DETR, not a deformable-detr-r50: leave `variant` out"
    )
    assert complaint(path, case_tensors(shared, "smca_detr_r50"), variant="deformable-detr-r50") == (
        f"{path} holds an SMCA-DETR, not a deformable-detr-r50: leave `variant` out"
    )
    assert complaint(path, case_tensors(shared, "detr_r50"), variant="deformable-detr-r50") == (
        f"{path} holds a DETR, not a deformable-detr-r50: leave `variant` out"
    )


class TestSignatures:
    """Sizes are numbers, letters that stand for one number each, or anything."""

    @pytest.mark.parametrize(
        ("signature", "fits"),
        [
            ({}, True),
            ({"a": None}, True),
            ({"c": None}, False),
            ({"a": (6, 4)}, True),
            ({"a": (6, 5)}, False),
            ({"a": (6,)}, False),
            ({"a": (None, 4)}, True),
            ({"a": ("Q", "D"), "b": ("D",)}, True),
            ({"a": ("D", "Q"), "b": ("D",)}, False),
            ({"a": ("3D", None)}, True),
            ({"a": ("4D", None)}, False),
            ({"a": ("3E", None), "b": ("2E",)}, True),
            ({"a": ("D+2", "D")}, True),
            ({"a": ("D", "D-2")}, True),
            ({"a": ("D", "D-1")}, False),
            ({"a": ("D", "D")}, False),
        ],
        ids=str,
    )
    def test_match_names_and_shapes(self, signature: Signature, fits: bool) -> None:
        assert matches(signature, {"a": (6, 4), "b": (4,)}) is fits

    def test_a_size_that_says_nothing(self) -> None:
        with pytest.raises(ValueError, match="'width' is not a size in a signature"):
            matches({"a": ("width",)}, {"a": (6,)})
