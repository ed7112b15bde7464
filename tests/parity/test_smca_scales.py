"""SMCA-DETR's other kinds of Gaussians: the authors' values for the same weights but for the layer that scales them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import cases, recipe

from detrkit.checkpoints import to_official

CASE, KINDS = "smca_detr_r50", {"type1": 0, "type2": 1, "type4": 3}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def golden(kind: str, shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / CASE / "variants.json").read_text())[kind]


@pytest.fixture(scope="module")
def run(kind: str, shared: Path) -> cases.Run:
    manifest = json.loads((shared / "golden" / CASE / "manifest.json").read_text())
    return cases.Run(CASE, manifest, case=cases.Case(f"smca-detr-r50-{kind}", cases.SMALL))


def test_scores_and_boxes(run: cases.Run, golden: dict[str, Any]) -> None:
    """Of the first and the last layer."""
    assert golden["logits"].keys() == golden["boxes"].keys() == {"0", "5"}
    for layer in (0, 5):
        logits = run.output.logits[layer].detach().numpy().reshape(-1)[:: golden["logits_step"]]
        np.testing.assert_allclose(logits, golden["logits"][str(layer)], atol=1e-6, rtol=0)
        boxes = run.output.boxes_cxcywh[layer].detach().numpy()
        wanted = np.array(golden["boxes"][str(layer)]).reshape(boxes.shape)
        np.testing.assert_allclose(boxes, wanted, atol=1e-6, rtol=0)


def test_losses_and_gradients(run: cases.Run, golden: dict[str, Any]) -> None:
    losses = run.criterion(run.output, run.targets())
    assert losses.total.item() == pytest.approx(golden["total"], rel=1e-6)
    wanted = run.our_terms(golden["losses"])
    assert {name: value.item() for name, value in losses.terms.items()} == pytest.approx(wanted, rel=1e-6)
    losses.total.backward()
    own = {name: value.grad for name, value in run.model.named_parameters() if value.grad is not None}
    gradients = to_official(own, run.model)
    assert len(golden["gradients"]) > 3
    for key, (norm, probe) in golden["gradients"].items():
        found = recipe.norm_and_probe(key, gradients[key])
        assert np.abs(np.subtract(found, (norm, probe))).max() <= 1e-4 * norm + 1e-9, key
