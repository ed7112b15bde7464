"""TSP-FCOS and TSP-RCNN against the authors' code: inference and training, from features to final detections and gradients."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import recipe
from torch import Tensor

import detrkit
from detrkit.checkpoints import from_official, to_official
from detrkit.explaining.attention import ENCODER, recorded_looks
from detrkit.explaining.concentration import sparsity_of
from detrkit.layers.pre_norm import attention_sparsity
from detrkit.layers.regions_of_interest import region_features
from detrkit.losses.tsp_fcos import _focal
from detrkit.models.catalog import selection_for
from detrkit.structures import ImageBatch, Output, Target

CASES = {"tsp_fcos_r50": "tsp-fcos-r50", "tsp_rcnn_r50": "tsp-rcnn-r50"}
NOTHING = Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.float64))


class Run:
    """A model with a case's weights, what it gives on the case's images, and what the authors' code gives."""

    def __init__(self, case: str, shared: Path) -> None:
        folder = shared / "golden" / case
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.golden = dict(np.load(folder / "golden.npz"))
        self.gradients: dict[str, Any] = json.loads((folder / "gradients.json").read_text())
        shapes = {key: tuple(shape) for key, shape in self.manifest["tensors"].items()}
        self.weights = recipe.weights(
            shapes, self.manifest["scale"], self.manifest["aliases"], self.manifest.get("fixed")
        )
        self.model = detrkit.build(CASES[case], queries=80, drop=0.0)
        self.model.load_state_dict(from_official(self.weights, self.model))
        self.model.double().eval()
        self.criterion = detrkit.criterion_for(self.model)
        images = [recipe.image(*spec) for spec in self.manifest["images"]]
        height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
        pixels = torch.full((len(images), 3, height, width), 7.0, dtype=torch.float64)
        padding = torch.ones(len(images), height, width, dtype=torch.bool)
        for row, image in enumerate(images):
            pixels[row, :, : image.shape[1], : image.shape[2]] = image
            padding[row, : image.shape[1], : image.shape[2]] = False
        self.batch = ImageBatch(pixels, padding)
        self.targets = [
            Target(torch.tensor(each["labels"]), torch.tensor(each["boxes"], dtype=torch.float64))
            for each in self.manifest["targets"]
        ]
        with torch.no_grad():
            self.stages = self.model.stages(self.batch)

    def train(self, targets: Sequence[Target]) -> Output:
        """The output of a training step, with norms and dropout as in evaluation, as the authors' values were made."""
        for module in (self.model, getattr(self.model, "interest", self.model)):
            module.training = True
        try:
            return self.model(self.batch, targets)
        finally:
            self.model.eval()

    def assert_same(self, name: str, values: Tensor) -> None:
        step = self.manifest["sampled"].get(name, {"step": 1})["step"]
        found = values.detach().contiguous().reshape(-1)[::step].numpy()
        np.testing.assert_allclose(found, self.golden[name].reshape(-1), rtol=1e-9, atol=1e-9, err_msg=name)

    def assert_losses(self, terms: dict[str, float], wanted: dict[str, Any]) -> None:
        assert terms == pytest.approx(wanted["losses"], rel=1e-6, abs=1e-9)
        assert sum(terms.values()) == pytest.approx(wanted["total"], rel=1e-6)

    def assert_detections(self) -> None:
        wanted = self.manifest["postprocess"]
        found = selection_for(self.model)(self.stages.output, torch.tensor(wanted["target_sizes"]))
        for mine, theirs in zip(found, wanted["results"], strict=True):
            count = len(theirs["scores"])
            assert len(mine.scores) == theirs["count"]
            torch.testing.assert_close(mine.scores[:count], torch.tensor(theirs["scores"], dtype=torch.float64))
            assert mine.labels[:count].tolist() == theirs["labels"]
            torch.testing.assert_close(mine.boxes_xyxy[:count], torch.tensor(theirs["boxes"], dtype=torch.float64))

    def assert_gradients(self) -> None:
        """Of the total, after `backward`; what does not train has none."""
        own = {name: value.grad for name, value in self.model.named_parameters() if value.grad is not None}
        found, frozen = to_official(own, self.model), self.gradients["frozen"]
        wanted = {key: value for key, value in self.gradients.items() if key not in ("none", "frozen")}
        assert set(wanted) - set(found) <= {key for key, (norm, _) in wanted.items() if norm == 0}
        assert set(found) <= set(wanted)
        assert not set(found) & set(frozen)
        for key, gradient in found.items():
            norm, probe = wanted[key]
            tolerance = 1e-4 * norm + 1e-9
            mine = recipe.norm_and_probe(key, gradient)
            assert abs(mine[0] - norm) <= tolerance, key
            assert abs(mine[1] - probe) <= tolerance, key

    def attention(self, tokens: Tensor, positions: Tensor, padding: Tensor | None) -> None:
        self.assert_same("inference.encoder.input", tokens.transpose(0, 1))
        self.assert_same("inference.encoder.pos", positions.transpose(0, 1))
        self.assert_same("inference.encoder.output", self.stages.encoder.transpose(0, 1))
        maps = self.model.encoder.attention_maps(tokens, positions, padding)
        self.assert_same("inference.attention", maps)
        self.assert_same("inference.sparsity", attention_sparsity(maps))
        self.watched_sparsity()

    def watched_sparsity(self) -> None:
        """What a watched run tells: of each layer and image, a mean over its heads."""
        with torch.no_grad(), recorded_looks(self.model, ENCODER, keep=sparsity_of) as kept:
            self.model(self.batch)
        found = torch.stack([of_layer for (of_layer,) in kept], dim=1)  # (B, layers)
        np.testing.assert_allclose(found.numpy(), self.golden["inference.sparsity"].mean(-1), rtol=1e-9, atol=1e-9)


def run_of(case: str) -> Callable[..., Run]:
    @pytest.fixture(scope="module")
    def run(shared: Path) -> Run:
        return Run(case, shared)

    return run


fcos = run_of("tsp_fcos_r50")
rcnn = run_of("tsp_rcnn_r50")


class TestFCOS:
    def test_inference(self, fcos: Run) -> None:
        stages, model = fcos.stages, fcos.model
        features = stages.output.features
        fcos.assert_same("backbone.res5", stages.backbone[-1].features)
        for index, level in enumerate(stages.neck):
            fcos.assert_same(f"backbone.p{index + 3}", level)
        assert features.cells.tolist() == fcos.golden["inference.selected"].tolist()
        scores = features.cell_logits.sigmoid().amax(-1).gather(1, features.cells)
        fcos.assert_same("inference.objectness", scores)
        fcos.attention(*model.tokens(stages.neck, stages.head, features.cells, fcos.batch.padding), None)
        fcos.assert_same("inference.cls_logits", stages.output.logits[0])
        fcos.assert_same("inference.ctrness", features.centerness_logits[..., None])
        fcos.assert_same("inference.bbox_pred", model.predictor.box_head(stages.encoder))

    def test_detections(self, fcos: Run) -> None:
        fcos.assert_detections()

    def losses(self, run: Run, targets: Sequence[Target]) -> tuple[Output, detrkit.structures.Losses, dict[str, float]]:
        output = run.train(targets)
        losses = run.criterion(output, targets)
        names = {
            "cells.class": "loss_fcos_local_cls",
            "class": "loss_fcos_cls",
            "giou": "loss_fcos_loc",
            "centerness": "loss_fcos_ctr",
        }
        assert set(run.criterion.weights.values()) == {1.0}
        return output, losses, {names[name]: value.item() for name, value in losses.terms.items()}

    def test_training(self, fcos: Run) -> None:
        output, losses, terms = self.losses(fcos, fcos.targets)
        assert output.features.cells.tolist() == fcos.golden["training.selected"].tolist()
        fcos.assert_same("training.cls_logits", output.logits[0])
        fcos.assert_same("training.ctrness", output.features.centerness_logits)
        fcos.assert_losses(terms, fcos.manifest)
        fcos.model.zero_grad()
        losses.total.backward()
        fcos.assert_gradients()

    @pytest.mark.parametrize(("entry", "empty"), [("empty_one", (1,)), ("empty_both", (0, 1))])
    def test_images_without_objects(self, fcos: Run, entry: str, empty: tuple[int, ...]) -> None:
        """The authors chose the features anew for these targets."""
        targets = [NOTHING if row in empty else target for row, target in enumerate(fcos.targets)]
        output, _, terms = self.losses(fcos, targets)
        if len(empty) == 2:
            # Without any object they have no list of matched features. Indexed with nothing, their table of wanted classes takes the label for
            # none, 80, for a row: that feature, here the first of the second image, is taught all classes at once. Ours is not.
            (logits,) = output.logits.flatten(1, 2)[:, 80]
            taught, plain = torch.ones_like(logits), torch.zeros_like(logits)
            terms["loss_fcos_cls"] += ((_focal(logits, taught) - _focal(logits, plain)).sum() / 2.2).item()
        fcos.assert_losses(terms, fcos.manifest[entry])


class TestRCNN:
    def test_inference(self, rcnn: Run) -> None:
        stages, model = rcnn.stages, rcnn.model
        regions = stages.output.regions
        for index, level in enumerate(stages.neck):
            rcnn.assert_same(f"backbone.p{index + 2}", level)
        for image in range(2):
            rcnn.assert_same(f"inference.proposals.{image}", regions.boxes_xyxy[image])
        features = region_features(stages.neck[:4], model.neck.strides[:4], regions.boxes_xyxy)
        rcnn.assert_same("inference.pooled", features)
        rcnn.attention(*model.tokens(features, regions.boxes_xyxy, regions.image_sizes), regions.padding)
        rcnn.assert_same("inference.cls_score", stages.output.logits[0])
        rcnn.assert_same("inference.bbox_pred", regions.deltas)

    def test_detections(self, rcnn: Run) -> None:
        rcnn.assert_detections()

    def losses(self, run: Run, targets: Sequence[Target]) -> tuple[Output, detrkit.structures.Losses, dict[str, float]]:
        output = run.train(targets)
        losses, weights = run.criterion(output, targets), run.criterion.weights
        terms = {name: weights[name] * value.item() for name, value in losses.terms.items()}
        found = {
            "loss_obj": terms["class"],
            "loss_box_reg": terms["l1"] + terms["giou"],
            "loss_rpn_cls": terms["proposals.class"],
            "loss_rpn_loc": terms["proposals.l1"],
        }
        return output, losses, found

    @pytest.fixture(autouse=True)
    def _drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The authors' values were made with the first rows in place of random ones, and 0.75 for every uniform number."""
        monkeypatch.setattr(torch, "randperm", lambda count, device=None: torch.arange(count, device=device))
        monkeypatch.setattr(torch, "rand", lambda size: torch.full(size, 0.75))

    def test_training(self, rcnn: Run) -> None:
        output, losses, terms = self.losses(rcnn, rcnn.targets)
        rcnn.assert_same("training.padding", output.regions.padding.double())
        rcnn.assert_same("training.cls_score", output.logits[0])
        rcnn.assert_same("training.bbox_pred", output.regions.deltas)
        rcnn.assert_losses(terms, rcnn.manifest)
        rcnn.model.zero_grad()
        losses.total.backward()
        rcnn.assert_gradients()

    @pytest.mark.parametrize(("entry", "empty"), [("empty_one", (1,)), ("empty_both", (0, 1))])
    def test_images_without_objects(self, rcnn: Run, entry: str, empty: tuple[int, ...]) -> None:
        """The authors chose the regions anew for these targets."""
        targets = [NOTHING if row in empty else target for row, target in enumerate(rcnn.targets)]
        rcnn.assert_losses(self.losses(rcnn, targets)[2], rcnn.manifest[entry])


@pytest.mark.parametrize(("case", "wanted"), [("tsp_fcos_r50", 51_236_522), ("tsp_rcnn_r50", 56_473_278)])
def test_number_of_parameters_that_train(case: str, wanted: int) -> None:
    with torch.device("meta"):
        model = detrkit.build(CASES[case])
    assert sum(value.numel() for value in model.parameters() if value.requires_grad) == wanted
