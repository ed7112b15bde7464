"""Training with noised objects against the authors' code, which was given the same draws: queries, outputs, losses and gradients.

The authors put noised objects before the queries, we put them behind. All values are reference data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity import cases, recipe
from parity.cases import Run
from torch import Tensor

from detrkit.checkpoints import to_official
from detrkit.layers.denoising import Noise
from detrkit.models import dn_detr
from detrkit.structures import Stages

Arrays = Mapping[str, np.ndarray]


def places(counts: Sequence[int], blocks: int) -> list[tuple[int, int, int]]:
    """Image, block and number of every noised object in the order of the authors' draws: the objects of all images end to end, again and again."""
    return [
        (image, block, index) for block in range(blocks) for image, count in enumerate(counts) for index in range(count)
    ]


def dn_noise(draws: Arrays, counts: Sequence[int], settings: Mapping[str, Any]) -> dn_detr.Noise:
    """DN-DETR's draws in our layout; what padding rows get is never used."""
    groups = settings["scalar (groups)"] if sum(counts) else 1
    shape = (len(counts), groups, 1, max(*counts, 1))
    noise = dn_detr.Noise(
        flipped=torch.zeros(shape, dtype=torch.bool),
        labels=torch.zeros(shape, dtype=torch.int64),
        shifts=torch.full((*shape, 4), torch.nan, dtype=torch.float64),
    )
    replacements = iter(draws["label_new"].tolist())
    found = places(counts, groups)
    assert len(found) == len(draws["label_uniform"]) == len(draws["box_uniform"])
    for (image, group, index), uniform, shifts in zip(found, draws["label_uniform"], draws["box_uniform"], strict=True):
        place = (image, group, 0, index)
        if uniform < settings["label_noise_scale"]:
            noise.flipped[place], noise.labels[place] = True, next(replacements)
        noise.shifts[place] = torch.from_numpy(2 * shifts - 1)
    assert next(replacements, None) is None
    return noise


def dn_hand_in(model: Any, noise: dn_detr.Noise) -> None:
    """The model draws nothing but this."""
    model.query_source.denoising.draw = lambda groups, *, like: noise


def dino_noise(draws: Arrays, counts: Sequence[int], settings: Mapping[str, Any]) -> Noise:
    """DINO's draws in our layout; what padding rows get is never used."""
    groups = settings["dn_number"] // max(counts) if sum(counts) else 1
    shape = (len(counts), groups, 2, max(*counts, 1))
    noise = Noise(
        flipped=torch.zeros(shape, dtype=torch.bool),
        labels=torch.zeros(shape, dtype=torch.int64),
        signs=torch.ones((*shape, 4), dtype=torch.float64),
        shares=torch.zeros((*shape, 4), dtype=torch.float64),
    )
    replacements = iter(draws["label_new"].tolist())
    found = places(counts, 2 * groups)
    columns = [draws[name] for name in ("label_uniform", "box_sign", "box_uniform")]
    assert all(len(column) == len(found) for column in columns)
    for (image, block, index), uniform, signs, shares in zip(found, *columns, strict=True):
        place = (image, block // 2, block % 2, index)
        if uniform < settings["label_noise_ratio"] / 2:
            noise.flipped[place], noise.labels[place] = True, next(replacements)
        noise.signs[place], noise.shares[place] = torch.from_numpy(2 * signs - 1), torch.from_numpy(shares)
    assert next(replacements, None) is None
    return noise


def dino_hand_in(model: Any, noise: Noise) -> None:
    """The model draws nothing but this."""
    model.query_source.denoising.draw = lambda repeats, *, like: noise


@dataclass(frozen=True)
class Paper:
    """How a paper's model is given the authors' draws.

    Attributes:
        noise: from the stored draws, the number of objects of each image, and the authors' settings to our noise.
        hand_in: makes a model use it.
    """

    noise: Callable[[Arrays, Sequence[int], Mapping[str, Any]], Any]
    hand_in: Callable[[Any, Any], None]


PAPERS = {"dn_dab_detr_r50": Paper(dn_noise, dn_hand_in), "dino_r50_4scale": Paper(dino_noise, dino_hand_in)}
EMPTY = {"both": (), "empty_one": (1,), "empty_both": (0, 1)}  # images without objects


class Noised:
    """A case's model in training with the authors' draws.

    Attributes:
        run: the model in eval mode.
        values: what the authors recorded beside the arrays.
        arrays: what they recorded of the batch in which both images have objects.
        stages: what our model gives for each kind of batch.
        losses: likewise.
    """

    def __init__(self, case: str, shared: Path) -> None:
        folder = shared / "golden" / case
        self.run = Run(case, json.loads((folder / "manifest.json").read_text()))
        self.values = json.loads((folder / "denoising.json").read_text())
        self.arrays = dict(np.load(folder / "denoising.npz"))
        self.stages: dict[str, Stages] = {}
        self.losses: dict[str, Any] = {}
        model = self.run.model.train()
        for entry, empty in EMPTY.items():
            targets = self.run.targets(empty=empty)
            counts = [len(target.labels) for target in targets]
            PAPERS[case].hand_in(model, PAPERS[case].noise(self.draws(entry), counts, self.values["settings"]))
            self.stages[entry] = model.stages(self.run.batch(), targets)
            self.losses[entry] = self.run.criterion(self.stages[entry].output, targets)
        model.zero_grad()
        self.losses["both"].total.backward()
        named = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        self.gradients = to_official(named, model)
        model.zero_grad()
        model.eval()

    def draws(self, entry: str) -> dict[str, np.ndarray]:
        """The draws for one kind of batch by their short names."""
        prefix = "draw." if entry == "both" else f"{entry}.draw."
        return {name.removeprefix(prefix): values for name, values in self.arrays.items() if name.startswith(prefix)}

    @property
    def rows(self) -> int:
        """How many rows of noised objects an image has."""
        return int(self.values["both"]["pad_size"])

    def in_their_order(self, values: Tensor) -> np.ndarray:
        """(B, Q + R, ...) with noised objects first."""
        return torch.cat([values[:, -self.rows :], values[:, : -self.rows]], dim=1).detach().numpy()

    def sampled(self, name: str, values: np.ndarray) -> np.ndarray:
        """The elements that were recorded."""
        assert list(values.shape) == self.values["both"]["shapes"][name]
        return values.reshape(-1)[:: self.values["both"]["sample_steps"].get(name, 1)]


@pytest.fixture(scope="module", params=list(PAPERS))
def noised(request: pytest.FixtureRequest) -> Noised:
    """One run a case."""
    shared = request.getfixturevalue("shared")
    return Noised(request.param, shared)


def test_noised_boxes_and_contents(noised: Noised) -> None:
    queries = noised.stages["both"].queries
    wanted = noised.arrays["query.boxes_unsigmoid"]  # in some cases without the model's own queries, which come last
    boxes = noised.in_their_order(queries.references.logit())[:, : wanted.shape[1]]
    np.testing.assert_allclose(boxes, wanted, atol=1e-9, rtol=0)
    content = noised.in_their_order(queries.content)[:, : wanted.shape[1]]
    if "query.indicator" in noised.arrays:
        np.testing.assert_array_equal(content[..., -1], noised.arrays["query.indicator"])
    found = noised.sampled("query.content", content)
    np.testing.assert_allclose(found, noised.arrays["query.content"], atol=1e-9, rtol=0)


def test_who_sees_whom(noised: Noised) -> None:
    """The authors say who may not be seen."""
    mask = noised.stages["both"].queries.mask
    assert mask.shape[1] == 1
    order = torch.cat([torch.arange(mask.shape[-1])[-noised.rows :], torch.arange(mask.shape[-1] - noised.rows)])
    for image in ~mask[:, 0]:
        np.testing.assert_array_equal(image[order][:, order].numpy(), noised.arrays["attention_mask"] == 1)


def test_every_layer(noised: Noised) -> None:
    (group,) = noised.stages["both"].output.training_groups
    assert group.group.rows == noised.rows
    assert group.group.repeats == noised.values["both"]["groups"]
    for layer, output in enumerate(group.output.layers):
        for name, values in (("logits", output.logits), ("boxes", output.boxes_cxcywh)):
            found = noised.sampled(f"layers.{name}", values.detach().numpy())
            wanted = noised.arrays[f"layers.{layer}.{name}"].reshape(-1)
            np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0, err_msg=f"{layer} {name}")


@pytest.mark.parametrize("entry", list(EMPTY))
def test_the_models_own_queries_never_notice(noised: Noised, entry: str) -> None:
    for name in ("logits", "boxes_cxcywh"):
        found, wanted = (getattr(output, name) for output in (noised.stages[entry].output, noised.run.output))
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("entry", list(EMPTY))
def test_losses(noised: Noised, entry: str) -> None:
    values, losses = noised.values[entry], noised.losses[entry]
    wanted = noised.run.our_terms(values["losses"]) | noised.run.denoising_terms(values["losses"])
    assert losses.terms.keys() == wanted.keys()
    for name, value in wanted.items():
        assert losses.terms[name].item() == pytest.approx(value, rel=1e-6, abs=1e-9), name
    assert losses.total.item() == pytest.approx(values["total"], rel=1e-6)


def test_without_objects_noise_costs_nothing(noised: Noised) -> None:
    noise = [value.item() for name, value in noised.losses["empty_both"].terms.items() if name.startswith("denoising.")]
    assert len(noise) == 3 * len(noised.run.output.logits)
    assert set(noise) == {0.0}


def test_gradients(noised: Noised) -> None:
    wanted = dict(noised.values["both"]["gradients"])
    assert not set(wanted.pop("none", ())) & noised.gradients.keys()
    found = {key: value for key, value in noised.gradients.items() if key not in noised.run.aliases}
    assert found.keys() == wanted.keys()
    for key, (norm, probe) in wanted.items():
        difference = np.abs(np.subtract(recipe.norm_and_probe(key, found[key]), (norm, probe))).max()
        assert difference <= 1e-4 * norm + 1e-9, key


def test_every_case_with_a_paper_here_is_a_golden_case() -> None:
    assert set(PAPERS) <= set(cases.CASES)
