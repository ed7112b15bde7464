"""The TSP papers' files, as detectron2 writes them: `.pth`, and `.pkl` with NumPy arrays."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.authors_files import assert_equal, complaint, published, skeleton, write

from detrkit.checkpoints import from_official, load, to_official
from detrkit.checkpoints.recognition import recognise
from detrkit.models.catalog import build

PUBLISHED = {"tsp_fcos_r50": "tsp-fcos-r50", "tsp_rcnn_r50": "tsp-rcnn-r50"}
STATISTICS = {"pixel_mean": (103.53, 116.28, 123.675), "pixel_std": (1.0, 1.0, 1.0)}
SMALL = {"width": 128, "pyramid_width": 64, "hidden": 48, "attention_heads": 4, "encoder_layers": 1, "queries": 6}


def statistics(values: dict[str, tuple[float, ...]] | None = None) -> dict[str, torch.Tensor]:
    """What detectron2 keeps of the images among the weights."""
    return {name: torch.tensor(each)[:, None, None] for name, each in (values or STATISTICS).items()}


def small(family: str, **changes: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A small model, and its weights as the authors write them."""
    model = build(f"tsp-{family}-compact", classes=["a", "b"], **{**SMALL, **changes}).eval()
    return model, to_official(model.state_dict(), model) | statistics()


@pytest.mark.parametrize("case", list(PUBLISHED))
class TestTheAuthorsNames:
    def test_have_a_place_each_and_lead_back(self, shared: Path, case: str) -> None:
        model, theirs = skeleton(PUBLISHED[case]), published(shared, case)
        own = from_official(theirs, model)
        assert {name: value.shape for name, value in own.items()} == {
            name: value.shape for name, value in model.state_dict().items()
        }
        assert_equal(to_official(own, model), {name: each for name, each in theirs.items() if name not in STATISTICS})

    def test_tell_the_paper(self, shared: Path, case: str) -> None:
        recognised = recognise(published(shared, case))
        assert recognised is not None
        assert recognised.family == case.removesuffix("_r50")


@pytest.mark.parametrize("family", ["fcos", "rcnn"])
class TestFiles:
    def test_of_pytorch(self, tmp_path: Path, family: str) -> None:
        model, theirs = small(family, encoder_layers=2)
        again = load(write(tmp_path / "model_final.pth", theirs), classes=["a", "b"])
        assert again.card.variant == f"tsp-{family}-compact"
        assert {name: again.card.config[name] for name in ("width", "pyramid_width", "hidden", "encoder_layers")} == {
            "width": 128,
            "pyramid_width": 64,
            "hidden": 48,
            "encoder_layers": 2,
        }
        assert_equal(again.state_dict(), model.state_dict())

    def test_of_numpy(self, tmp_path: Path, family: str) -> None:
        model, theirs = small(family)
        content = {"model": {name: each.numpy() for name, each in theirs.items()}, "__author__": "somebody"}
        file = tmp_path / "model_final.pkl"
        file.write_bytes(pickle.dumps(content))
        assert_equal(load(file, classes=["a", "b"]).state_dict(), model.state_dict())

    def test_for_other_images_are_refused(self, tmp_path: Path, family: str) -> None:
        file = write(
            tmp_path / "model.pth", small(family)[1] | statistics({"pixel_mean": (1, 2, 3), "pixel_std": (4, 5, 6)})
        )
        assert (
            "the weights expect images with the means [1.0, 2.0, 3.0] and the deviations [4.0, 5.0, 6.0]"
            in complaint(file)
        )


def test_the_boxes_of_anchors_are_those_of_the_file(shared: Path) -> None:
    manifest = json.loads((shared / "golden" / "tsp_rcnn_r50" / "manifest.json").read_text())
    model = build("tsp-rcnn-compact")
    for level in range(5):
        name = f"proposal_generator.anchor_generator.cell_anchors.{level}"
        wanted = np.asarray(manifest["fixed"][name], dtype=np.float32).reshape(9, 4)
        np.testing.assert_allclose(model.proposals.anchors.get_buffer(f"level{level}").numpy(), wanted, rtol=1e-6)
