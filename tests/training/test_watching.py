"""Figures of convergence: matching, attention and queries from epoch to epoch, on the same training images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training.small_runs import SMALL, check_same_run, rows, run, without_reports

import detrkit
from detrkit.data import open_dataset, read_digits
from detrkit.explaining.attention import CROSS, ENCODER, layers_of
from detrkit.layers.selection import SoftmaxSelection, TopKSelection
from detrkit.matching.hungarian import as_matches
from detrkit.measures import LAYERED
from detrkit.models.catalog import CATALOG
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Output, Target
from detrkit.training import watching
from detrkit.training.watching import ConvergenceWatch, watched_images

COLUMN = "matching_instability"


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    without_reports(monkeypatch)


def test_queries_that_change_places_are_counted(digits_folder: Path) -> None:
    dataset = open_dataset(digits_folder, "train")
    watch = ConvergenceWatch(dataset)
    torch.manual_seed(0)
    model = detrkit.build("detr-compact", classes=dataset.categories, **SMALL["settings"]).train()
    assert not any(name.startswith(COLUMN) for name in watch.figures(model))
    assert model.training
    assert watch.figures(model).items() >= {COLUMN: 0.0, f"{COLUMN}_0": 0.0, f"{COLUMN}_1": 0.0}.items()
    weight = model.query_source.position.weight
    with torch.no_grad():
        weight.copy_(weight.roll(1, dims=0))
    assert watch.figures(model)[COLUMN] == 1.0
    with torch.no_grad():
        weight[[0, 1]] = weight[[1, 0]]
    assert 0 < watch.figures(model)[f"{COLUMN}_1"] < 1


def test_the_order_of_proposals_says_nothing(digits_folder: Path) -> None:
    """A higher score makes another rank of a proposal, and the same box of the same token."""
    dataset = open_dataset(digits_folder, "train")
    watch = ConvergenceWatch(dataset)
    torch.manual_seed(0)
    settings = {**SMALL["settings"], "width": 64, "queries": 400}  # more than there are tokens, so that all are there
    model = detrkit.build("deformable-detr-compact-two-stage", classes=dataset.categories, **settings)
    watch.figures(model)
    with torch.no_grad():
        head = model.query_source.proposals.class_head
        head.weight[0] *= -1
    assert watch.figures(model)[COLUMN] == 0.0


def small(variant: str, **settings: Any) -> Detector:
    torch.manual_seed(0)
    return detrkit.build(variant, classes=read_digits("train", images=1).categories, **SMALL["settings"] | settings)


def test_the_order_of_batches_says_nothing(digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be resumed on a computer that makes other batches."""
    dataset, model = open_dataset(digits_folder, "train"), small("detr-compact")
    first, second = ConvergenceWatch(dataset), ConvergenceWatch(dataset, batch_size=3)
    alone = first.figures(model)
    batches = watching.loader_of

    def backwards(*arguments: Any, **options: Any) -> Iterator[Any]:
        return reversed(list(batches(*arguments, **options)))

    monkeypatch.setattr(watching, "loader_of", backwards)
    second.restore(first.state())
    together = second.figures(model)
    assert together.pop(COLUMN) == together.pop(f"{COLUMN}_0") == together.pop(f"{COLUMN}_1") == 0.0
    assert together == pytest.approx(alone, rel=1e-4)


def test_a_share_of_the_training_images_with_objects_is_looked_at() -> None:
    dataset = read_digits("train", images=1000, size=64)
    assert watched_images(dataset) == list(range(0, 1000, 50))
    few = read_digits("train", images=10, size=64)
    first, second = few.offsets[1:3]  # the second image has a crowd region only, which is no object
    crowd = np.zeros(len(few.labels), dtype=bool)
    crowd[first:second] = True
    assert watched_images(dataclasses.replace(few, crowd=crowd)) == [0, 3, 5, 7]
    none = dataclasses.replace(few, crowd=np.ones(len(few.labels), dtype=bool))
    assert watched_images(none) == []
    assert ConvergenceWatch(none).figures(small("detr-compact")) == {}
    one_each = {"labels": np.zeros(10_000, dtype=int), "crowd": np.zeros(10_000, dtype=bool)}
    many = dataclasses.replace(few, **one_each, image_ids=np.arange(10_000), offsets=np.arange(10_001))
    assert len(watched_images(many)) == 64


def apart_from(place: float, dataset: Any, images: list[int]) -> float:
    """By hand: the median distance of the objects' centres from a place on the diagonal of their images, in halves of their own diagonals."""
    found = []
    for image in images:
        height, width = dataset.sizes[image]
        for left, top, right, bottom in dataset.objects(image).boxes_xyxy:
            apart = math.hypot((left + right) / 2 - place * width, (top + bottom) / 2 - place * height)
            found.append(apart / (math.hypot(right - left, bottom - top) / 2))
    return float(np.median(found))


def test_uniform_attention_of_all_heads_has_its_centre_in_the_middle(digits_folder: Path) -> None:
    dataset, model = open_dataset(digits_folder, "train"), small("detr-compact")
    (cells,) = {h * w for h, w in model.stages(ImageBatch(torch.zeros(1, 3, 128, 128))).memory.level_sizes}
    attention = model.decoder.layers[0].cross_attention
    with torch.no_grad():
        attention.projection_weight[: attention.width] = 0  # queries that are all alike
        attention.projection_bias[: attention.width] = 0
    watch = ConvergenceWatch(dataset)
    figures = watch.figures(model)
    assert figures["attention_sparsity_0"] == pytest.approx(-math.log(cells), rel=1e-5)
    assert -math.log(cells) < figures["attention_sparsity_1"] < 0
    assert figures["attention_sparsity"] == pytest.approx(
        (figures["attention_sparsity_0"] + figures["attention_sparsity_1"]) / 2
    )
    wanted = apart_from(0.5, dataset, watch.images)
    assert figures["attention_distance_0"] == pytest.approx(wanted, rel=1e-3)


def test_references_are_as_far_as_they_are_from_the_objects(digits_folder: Path) -> None:
    dataset, model = open_dataset(digits_folder, "train"), small("dab-detr-compact")
    with torch.no_grad():
        model.query_source.center_logits.zero_()  # in the middle,
        model.heads.box_head.output.bias[:2] = -100.0  # from where they move into the corner
    watch = ConvergenceWatch(dataset)
    figures = watch.figures(model)
    middle, corner = (apart_from(place, dataset, watch.images) for place in (0.5, 0.0))
    assert figures["reference_distance_0"] == pytest.approx(middle, rel=1e-3)
    assert figures["reference_distance_1"] == pytest.approx(corner, rel=1e-2)
    assert figures["reference_distance"] == pytest.approx((middle + corner) / 2, rel=1e-2)


def test_distances_are_in_half_diagonals_of_the_matched_box_whatever_the_padding() -> None:
    padding = torch.ones(2, 100, 200, dtype=torch.bool)
    padding[0], padding[1, :50, :100] = False, False
    batch = ImageBatch(torch.zeros(2, 3, 100, 200), padding)
    targets = [
        Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.15, 0.4]])),  # 30 × 40 pixels
        Target(torch.tensor([0, 0]), torch.tensor([[0.2, 0.2, 0.06, 0.16], [0.5, 0.5, 0.0, 0.0]])),  # 6 × 8; a point
    ]
    pairs = [[(0, 1, 0), (1, 0, 1), (1, 2, 0)]] * 2
    matches = as_matches(pairs, np.array([0, 1]), torch.device("cpu"))
    points = torch.zeros(2, 3, 2)
    points[0, 1] = torch.tensor([0.5, 0.75])  # 25 pixels below the centre
    points[1, 2] = torch.tensor([0.3, 0.2])  # 10 pixels to the right
    points[1, 0] = torch.tensor([0.54, 0.5])  # 4 pixels
    boxes = torch.cat([points, torch.full((2, 3, 2), 9.0)], dim=-1)  # of references, sides do not count
    found = watching._distances([points, boxes], batch, targets, matches)
    torch.testing.assert_close(found, torch.tensor([[1.0, 8.0, 2.0]] * 2))
    assert watching._distances([], batch, targets, matches) is None


@pytest.mark.parametrize("select", [SoftmaxSelection(), TopKSelection()])
def test_queries_with_an_object_or_one_of_the_best_detections_are_used(select: Any) -> None:
    scores = torch.full((2, 2, 6), -5.0)
    scores[0, 0, 3], scores[0, 1, 4], scores[0, 1, 5] = 3.0, 4.0, 2.0
    scores[1, 0, 0], scores[1, 1, 1] = 3.0, 3.0  # of the second image the best one counts
    logits = torch.stack([scores, torch.full_like(scores, -6.0)], dim=-1)  # and one class beside it, or no object
    output = Output(logits, torch.full((2, 2, 6, 4), 0.5))
    batch = ImageBatch(torch.zeros(2, 3, 8, 8), original_sizes=torch.tensor([[8, 8], [8, 8]]))
    box = torch.full((1, 4), 0.5)
    targets = [Target(torch.tensor([0]), box), Target(torch.tensor([0]), box)]
    pairs = [[(0, 0, 0), (1, 4, 0)], [(0, 0, 0), (1, 2, 0)]]
    matches = as_matches(pairs, np.array([0, 1]), torch.device("cpu"))
    best = watching._best(select, output, batch, targets)
    assert watching._used(best, matches) == [{0, 4, 3}, {0, 2, 1}]


def test_of_the_best_detections_those_that_lie_on_a_better_one_of_their_class_repeat_it() -> None:
    scores = torch.full((2, 1, 4, 2), -5.0)
    scores[..., 0, 0], scores[..., 1, 0], scores[..., 2, 0], scores[..., 3, 1] = 4.0, 3.0, 2.0, 1.0
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.52, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.4, 0.4]])
    layers = torch.stack([boxes, torch.cat([boxes[:1], boxes[2:3], boxes[1:2], boxes[3:]])])[:, None]
    batch = ImageBatch(torch.zeros(1, 3, 8, 8), original_sizes=torch.tensor([[8, 8]]))

    def repeats(count: int) -> list[list[bool]]:
        targets = [Target(torch.zeros(count, dtype=torch.int64), torch.full((count, 4), 0.5))]
        best = watching._best(TopKSelection(), Output(scores, layers), batch, targets)
        return [of_image.tolist() for ((_, of_image),) in best]

    assert repeats(4) == [[False, True, False, False], [False, False, True, False]]  # the last is of another class
    assert repeats(2) == [[False, True], [False, False]]


@pytest.fixture(scope="module")
def few_digits() -> Any:
    return read_digits("train", images=5, size=64)


@pytest.mark.parametrize("variant", [name for name in CATALOG if "compact" in name])
def test_every_variant_has_the_figures_of_what_it_has(variant: str, few_digits: Any) -> None:
    torch.manual_seed(0)
    model = detrkit.build(variant, classes=few_digits.categories).train()
    for parameter in model.parameters():  # deformable attention starts with equal weights
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    watch = ConvergenceWatch(few_digits, batch_size=4)
    watch.figures(model)
    figures = watch.figures(model)
    assert model.training
    has_decoder = hasattr(model, "decoder")
    layers = {measure.column: CATALOG[variant].config.decoder_layers or 1 for measure in LAYERED}
    layers["attention_sparsity"] = len(layers_of(model, CROSS if has_decoder else ENCODER))
    layers["attention_distance"] = len(layers_of(model, CROSS))
    layers["reference_distance"] = (
        layers[COLUMN] if has_decoder and CATALOG[variant].family.partition("_")[0] != "detr" else 0
    )
    most = len(few_digits.labels) * 2 * layers[COLUMN]
    if CATALOG[variant].family == "tsp_rcnn":  # regions are numbered by their scores
        layers[COLUMN] = 0
    columns = {f"{name}_{layer}" for name, count in layers.items() for layer in range(count)}
    assert set(figures) == columns | {name for name, count in layers.items() if count}
    assert all(value == 0 for name, value in figures.items() if name.startswith(COLUMN))
    assert all(-math.log(10_000) < value < -0.1 for name, value in figures.items() if "sparsity" in name)
    assert all(0 < value < 100 for name, value in figures.items() if "distance" in name)
    assert all(1 <= value <= most for name, value in figures.items() if "used" in name)
    assert all(0 <= value < 1 for name, value in figures.items() if "repeated" in name)
    assert figures["used_queries"] >= max(value for name, value in figures.items() if name.startswith("used_queries_"))


def test_a_run_logs_them_and_a_resumed_one_the_same(digits_folder: Path, tmp_path: Path) -> None:
    options = {"watch": "convergence", "epochs": 3, "lr": 1e-3, "warmup_steps": 60}
    run(digits_folder, tmp_path / "whole", **options)
    run(digits_folder, tmp_path / "parts", **options, steps=3)
    detrkit.train(resume=tmp_path / "parts", steps=9)
    check_same_run(tmp_path / "whole", tmp_path / "parts")
    found = [row[COLUMN] for row in rows(tmp_path / "whole")]
    assert found[0] == ""
    assert all(0 <= float(each) <= 1 for each in found[1:])
    for row in rows(tmp_path / "whole"):
        assert -math.log(64) < float(row["attention_sparsity_1"]) < 0
        assert 1 <= float(row["used_queries_0"]) <= float(row["used_queries"]) <= 8
