"""DETR against values that the authors' code computed (float64, eval mode), on weights made from names alone. Needs no other file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import detrkit
from detrkit.checkpoints import from_official, to_official
from detrkit.models.catalog import selection_for
from detrkit.structures import ImageBatch, Output, Target

FOLDER = Path(__file__).parent
CASES = {"detr_r50": "detr-r50", "detr_r50_dc5": "detr-r50-dc5"}


def load_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_recipe", FOLDER / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


class Case:
    """A model with a case's weights, and what it gives on the case's images."""

    def __init__(self, name: str) -> None:
        self.golden: dict[str, Any] = json.loads((FOLDER / "data" / f"{name}.json").read_text())
        self.model = detrkit.build(CASES[name], queries=40)
        state = self.model.state_dict()
        shapes = {key: tuple(value.shape) for key, value in to_official(state, self.model).items()}
        self.model.load_state_dict(from_official(recipe.weights(shapes, self.golden["scale"]), self.model))
        self.model.double().eval()
        self.criterion = detrkit.criterion_for(self.model)

    def batch(self, dtype: torch.dtype = torch.float64) -> ImageBatch:
        images = [recipe.image(*spec) for spec in self.golden["images"]]
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        pixels = torch.full(
            (len(images), 3, height, width), 7.0, dtype=torch.float64
        )  # behind padding anything may stand
        padding = torch.ones(len(images), height, width, dtype=torch.bool)
        for row, image in enumerate(images):
            pixels[row, :, : image.shape[1], : image.shape[2]] = image
            padding[row, : image.shape[1], : image.shape[2]] = False
        return ImageBatch(pixels.to(dtype), padding)

    def targets(self, *, empty: tuple[int, ...] = ()) -> list[Target]:
        found = []
        for row, target in enumerate(self.golden["targets"]):
            keep = slice(0, 0) if row in empty else slice(None)
            labels, boxes = torch.tensor(target["labels"]), torch.tensor(target["boxes"], dtype=torch.float64)
            found.append(Target(labels=labels[keep], boxes_cxcywh=boxes[keep]))
        return found


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def output(case: Case) -> Output:
    with torch.no_grad():
        return case.model(case.batch())


def our_names(losses: dict[str, float]) -> dict[str, float]:
    """The authors' names of loss terms in ours: without a number they are of the last layer."""
    terms = {"loss_ce": "class", "loss_bbox": "l1", "loss_giou": "giou"}
    result = {}
    for name, value in losses.items():
        stem, _, number = name.rpartition("_")
        stem, layer = (stem, int(number)) if number.isdigit() else (name, 5)
        if stem in terms:
            result[f"layers.{layer}.{terms[stem]}"] = value
    return result


def test_every_layer(case: Case, output: Output) -> None:
    for layer, wanted in zip(output.layers, case.golden["layers"], strict=True):
        logits = layer.logits.reshape(-1)[:: case.golden["step"]].numpy()
        np.testing.assert_allclose(logits, wanted["logits"], atol=1e-6, rtol=0)
        np.testing.assert_allclose(layer.boxes_cxcywh.reshape(-1).numpy(), wanted["boxes"], atol=1e-6, rtol=0)


def test_float32_agrees(case: Case) -> None:
    model = case.model.to(torch.float32)
    try:
        with torch.no_grad():
            output = model(case.batch(torch.float32))
    finally:
        case.model.to(torch.float64)  # float32 holds the weights exactly
    tolerance = 3e-4 if model.card.variant.endswith("dc5") else 1e-4
    for layer, wanted in zip(output.layers, case.golden["layers"], strict=True):
        logits = layer.logits.reshape(-1)[:: case.golden["step"]].numpy()
        np.testing.assert_allclose(logits, wanted["logits"], atol=tolerance, rtol=0)
        np.testing.assert_allclose(
            layer.boxes_cxcywh.reshape(-1).numpy(), wanted["boxes"], atol=tolerance / 2.5, rtol=0
        )


def test_matches(case: Case, output: Output) -> None:
    matches = case.criterion.matcher(output, case.targets())
    for layer, images in case.golden["matches"].items():
        row = int(layer)
        for image, (queries, objects) in enumerate(images):
            here = matches.images[row] == image
            assert matches.queries[row][here].tolist() == queries
            assert matches.objects[row][here].tolist() == objects


@pytest.mark.parametrize(("entry", "empty"), [(None, ()), ("empty_one", (1,)), ("empty_both", (0, 1))])
def test_losses(case: Case, output: Output, entry: str | None, empty: tuple[int, ...]) -> None:
    golden = case.golden if entry is None else case.golden[entry]
    losses = case.criterion(output, case.targets(empty=empty))
    wanted = our_names(golden["losses"])
    assert losses.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses.terms[name].item() == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert losses.total.item() == pytest.approx(golden["total"], rel=1e-6)


def test_loss_weights(case: Case) -> None:
    assert case.criterion.weights == our_names(case.golden["weights"])


def test_gradients(case: Case) -> None:
    case.model.zero_grad()
    case.criterion(case.model(case.batch()), case.targets()).total.backward()
    named = {name: value.grad for name, value in case.model.named_parameters() if value.grad is not None}
    gradients = to_official(named, case.model)
    assert not set(case.golden["frozen"]) & gradients.keys()
    for key, (norm, probe) in case.golden["gradients"].items():
        found_norm, found_probe = recipe.norm_and_probe(key, gradients[key])
        assert abs(found_norm - norm) <= 1e-4 * norm + 1e-8, key
        assert abs(found_probe - probe) <= 1e-4 * norm + 1e-8, key


def test_post_processing(case: Case, output: Output) -> None:
    golden = case.golden["postprocess"]
    found = selection_for(case.model)(output, torch.tensor(golden["target_sizes"]))
    for detections, wanted in zip(found, golden["results"], strict=True):
        count = len(wanted["scores"])
        assert len(detections.scores) == wanted["count"]
        np.testing.assert_allclose(detections.scores[:count].numpy(), wanted["scores"], atol=1e-6)
        assert detections.labels[:count].tolist() == wanted["labels"]
        np.testing.assert_allclose(detections.boxes_xyxy[:count].numpy(), wanted["boxes"], atol=1e-4)
