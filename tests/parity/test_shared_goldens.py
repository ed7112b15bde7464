"""DETR against the whole of the shared reference values: every stage, every class score, every gradient."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import detrkit
from detrkit.structures import ImageBatch, Stages, Target

CASES = {"detr_r50": "detr-r50", "detr_r50_dc5": "detr-r50-dc5"}


@pytest.fixture(scope="module")
def recipe(shared: Path) -> ModuleType:
    sys.path.insert(0, str(shared / "golden"))
    try:
        import recipe as module
    finally:
        sys.path.pop(0)
    return module


class Golden:
    """The files of a case, and the model loaded from what the authors' checkpoint would be."""

    def __init__(self, folder: Path, recipe: ModuleType, variant: str, scratch: Path) -> None:
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.arrays = np.load(folder / "golden.npz")
        self.gradients = json.loads((folder / "gradients.json").read_text())
        state = {key: torch.from_numpy(value).float() for key, value in recipe.weights(self.manifest).items()}
        torch.save({"model": state}, scratch / "case.pth")
        self.model = detrkit.load(scratch / "case.pth", variant=variant).double()
        images = [torch.from_numpy(recipe.image(*spec)) for spec in self.manifest["images"]]
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        pixels = torch.zeros(len(images), 3, height, width, dtype=torch.float64)
        padding = torch.ones(len(images), height, width, dtype=torch.bool)
        for row, image in enumerate(images):
            pixels[row, :, : image.shape[1], : image.shape[2]] = image
            padding[row, : image.shape[1], : image.shape[2]] = False
        self.stages: Stages = self.model.stages(ImageBatch(pixels, padding))

    def sample(self, name: str, values: torch.Tensor) -> np.ndarray:
        return values.detach().contiguous().reshape(-1)[:: self.manifest["sampled"][name]["step"]].numpy()


@pytest.fixture(scope="module", params=list(CASES))
def golden(request: pytest.FixtureRequest, shared: Path, recipe: ModuleType, tmp_path_factory: Any) -> Golden:
    return Golden(shared / "golden" / request.param, recipe, CASES[request.param], tmp_path_factory.mktemp("case"))


def test_stages(golden: Golden) -> None:
    stages = golden.stages
    parts = {
        "position": stages.neck.positions[0],
        "backbone": stages.backbone[0].features,
        "memory": stages.memory.tokens,
    }
    parts |= {f"layers.{layer}.hidden": states for layer, states in enumerate(stages.decoded.states)}
    for name, values in parts.items():
        np.testing.assert_allclose(golden.sample(name, values), golden.arrays[name], atol=1e-6, rtol=0, err_msg=name)


def test_padding_of_the_feature_map(golden: Golden) -> None:
    level = golden.manifest["levels"][0]
    padding = golden.stages.backbone[0].padding
    assert padding is not None
    assert list(padding.shape[1:]) == level["size"]
    valid = [[int((~image).any(1).sum()), int((~image).any(0).sum())] for image in padding]
    assert valid == level["valid"]


def test_outputs(golden: Golden) -> None:
    for index, layer in enumerate(golden.stages.output.layers):
        logits, boxes = golden.arrays[f"layers.{index}.logits"], golden.arrays[f"layers.{index}.boxes"]
        np.testing.assert_allclose(layer.logits.detach().numpy(), logits, atol=1e-6, rtol=0)
        np.testing.assert_allclose(layer.boxes_cxcywh.detach().numpy(), boxes, atol=1e-6, rtol=0)


def test_every_gradient(golden: Golden, recipe: ModuleType) -> None:
    model = golden.model
    targets = [
        Target(labels=torch.tensor(each["labels"]), boxes_cxcywh=torch.tensor(each["boxes"], dtype=torch.float64))
        for each in golden.manifest["targets"]
    ]
    losses = detrkit.criterion_for(model)(golden.stages.output, targets)
    assert losses.total.item() == pytest.approx(golden.manifest["total"], rel=1e-6)
    losses.total.backward()
    named = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    gradients = detrkit.checkpoints.to_official(named, model)
    expected = {key: value for key, value in golden.gradients.items() if key not in ("none", "frozen")}
    assert gradients.keys() == expected.keys()
    for key, (norm, probe) in expected.items():
        values = gradients[key].contiguous().numpy()
        assert abs(np.linalg.norm(values) - norm) <= 1e-4 * norm + 1e-8, key
        assert abs(recipe.probe(key, values) - probe) <= 1e-4 * norm + 1e-8, key
