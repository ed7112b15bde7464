"""A model that knows the truth must score 100 percent, through class matching, resizing, batching and result entries."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from detrkit.cards import Category, ModelCard, Preprocessing
from detrkit.data import ArrayImages, DetectionDataset, open_dataset
from detrkit.errors import ConfigurationError, DataError, NonFiniteError
from detrkit.evaluation.bootstrap import Interval
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.figures import Evaluation
from detrkit.evaluation.repeats import Suppression
from detrkit.evaluation.runner import (
    compare,
    compare_in_detail,
    detect,
    evaluate,
    with_best_thresholds,
)
from detrkit.files import write_json
from detrkit.models import detr
from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import ImageBatch, Output

QUERIES = 8


class PerfectDetector(Detector):
    """Returns the annotated boxes of a data set, with its own class indices; records the batches it gets."""

    def __init__(self, dataset: DetectionDataset, categories: Sequence[Category], queries: int = QUERIES) -> None:
        config = dataclasses.asdict(detr.Config(class_count=1 + max(category.index for category in categories)))
        card = ModelCard("detr", "perfect", config, tuple(categories), Preprocessing(64, 128))
        super().__init__(backbone=nn.Dropout(), card=card)  # type: ignore[arg-type]
        self.dataset, self.queries = dataset, queries
        self.indices = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
        self.unit = nn.Parameter(torch.ones(()))
        self.seen: list[ImageBatch] = []

    def forward(self, batch: ImageBatch, targets: object = None) -> Output:
        assert batch.image_ids is not None
        self.seen.append(batch)
        pairs = [self._truth(self.indices[image_id]) for image_id in batch.image_ids.tolist()]
        return Output(*(torch.stack(parts)[None] * self.unit for parts in zip(*pairs, strict=True)))

    def _truth(self, index: int) -> tuple[Tensor, Tensor]:
        class_indices = {category.name.casefold(): category.index for category in self.card.categories}
        logits = torch.zeros(self.queries, self.card.config["class_count"] + 1)
        boxes = torch.full((self.queries, 4), 0.5)
        objects = self.dataset.objects(index)
        height, width = self.dataset.sizes[index]
        pairs = list(zip(objects.boxes_xyxy, objects.labels, strict=True))[: self.queries]
        for query, (box, label) in enumerate(pairs):
            left, top, right, bottom = box / [width, height, width, height]
            boxes[query] = torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
            logits[query, class_indices[self.dataset.categories[label].name.casefold()]] = 20.0
        return logits, boxes


def pets(*, empty: bool = False) -> DetectionDataset:
    """Three images of 40 × 60 pixels with ids of their own; one cat, two dogs and an image without objects."""
    boxes = np.array([[5.0, 6, 25, 26], [30, 10, 50, 38], [2, 2, 22, 32]])
    return DetectionDataset(
        name="pets val",
        images=ArrayImages(np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)),
        image_ids=np.array([70, 8, 33]),
        sizes=np.array([[40, 60]] * 3),
        categories=(Category(5, "cat", 0), Category(17, "dog", 1)),
        offsets=np.zeros(4, dtype=np.int64) if empty else np.array([0, 2, 2, 3]),
        boxes_xyxy=boxes[:0] if empty else boxes,
        labels=np.array([], dtype=np.int64) if empty else np.array([0, 1, 1]),
        crowd=np.zeros(0 if empty else 3, dtype=bool),
        areas=np.zeros(0) if empty else np.array([400.0, 560, 600]),
        annotation_ids=np.arange(0 if empty else 3),
        notes=("A note of the reader.",),
    )


# Order, ids and case differ from the data set's; index 1 has no category.
MODEL_CATEGORIES = (Category(1, "Dog", 0), Category(2, "CAT", 2))


def test_the_truth_scores_100_percent() -> None:
    dataset = pets()
    evaluation = evaluate(PerfectDetector(dataset, MODEL_CATEGORIES), dataset)
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert [(entry.name, entry.id, entry.ap) for entry in evaluation.classes] == [
        ("cat", 5, pytest.approx(1.0)),
        ("dog", 17, pytest.approx(1.0)),
    ]
    assert (evaluation.name, evaluation.images, evaluation.objects) == ("pets val", 3, 3)
    assert evaluation.notes == (
        "A note of the reader.",
        "pets val writes the class 'CAT' as 'cat' (2 such names); both are taken for the same class.",
    )


def test_entries_have_the_ids_pixels_and_order_of_the_data_set() -> None:
    dataset = pets()
    entries = detect(PerfectDetector(dataset, MODEL_CATEGORIES), dataset)
    assert [entry["image_id"] for entry in entries] == [70] * QUERIES + [8] * QUERIES + [33] * QUERIES
    best = [entry for entry in entries if entry["score"] > 0.9]
    assert [(entry["image_id"], entry["category_id"]) for entry in best] == [(70, 5), (70, 17), (33, 17)]
    np.testing.assert_allclose(
        [entry["bbox"] for entry in best], [[5, 6, 20, 20], [30, 10, 20, 28], [2, 2, 20, 30]], atol=1e-4
    )


def test_the_truth_of_real_data_with_odd_category_ids_scores_100_percent(shared: Path) -> None:
    dataset = open_dataset(shared / "data/roboflow_sample", "valid")
    model = PerfectDetector(dataset, dataset.categories, queries=40)
    evaluation = evaluate(model, dataset, batch_size=2)
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert (evaluation.images, evaluation.objects) == (4, 49)


def test_figures_do_not_depend_on_batches_workers_or_the_way_through_a_file(shared: Path, tmp_path: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset(range(12))
    model = build("detr-compact", preprocessing=Preprocessing(64, 96), queries=20)
    single = detect(model, dataset)
    together = detect(model, dataset, batch_size=4, workers=1)
    assert [entry["image_id"] for entry in single] == [entry["image_id"] for entry in together]
    np.testing.assert_allclose([entry["score"] for entry in single], [entry["score"] for entry in together], atol=1e-5)
    for image in dataset.image_ids:
        ours, theirs = (
            np.array([[*entry["bbox"], entry["category_id"]] for entry in entries if entry["image_id"] == image])
            for entries in (single, together)
        )
        pairs = linear_sum_assignment(np.abs(ours[:, None] - theirs).max(-1))  # nearly equal scores come in any order
        np.testing.assert_allclose(ours[pairs[0]], theirs[pairs[1]], atol=1e-2)
    assert {entry["category_id"] for entry in single} <= {category.id for category in dataset.categories}
    file = write_json(tmp_path / "results.json", single)
    figures = evaluate(model, dataset).figures
    assert evaluate_detections(dataset.to_coco(), file).figures == pytest.approx(figures, abs=1e-6)


def test_images_are_never_padded_and_share_batches_by_size(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset(range(8))
    model = PerfectDetector(dataset, dataset.categories, queries=50)
    detect(model, dataset, batch_size=4)
    assert all(batch.padding is None for batch in model.seen)
    shapes = [tuple(batch.pixels.shape[2:]) for batch in model.seen]
    assert sum(len(batch.pixels) for batch in model.seen) == 8
    assert len(shapes) == len(set(shapes)) < 8


def test_small_images_are_padded_to_the_models_smallest_side(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset(range(8))
    model = PerfectDetector(dataset, dataset.categories, queries=50)
    model.card = dataclasses.replace(model.card, preprocessing=Preprocessing(32, 64, smallest_side=96))
    detect(model, dataset)
    assert {tuple(batch.pixels.shape[2:]) for batch in model.seen} == {(96, 96)}
    visible = [(~batch.padding).sum().item() for batch in model.seen if batch.padding is not None]
    assert len(visible) == 8
    assert all(32 * 32 <= count <= 32 * 64 for count in visible)


def test_every_module_gets_its_mode_back() -> None:
    dataset = pets()
    model = PerfectDetector(dataset, MODEL_CATEGORIES).train()
    model.extra = nn.Dropout()
    model.backbone.eval()
    seen: list[bool] = []
    model.register_forward_hook(lambda *_: seen.append(model.training or model.extra.training))
    detect(model, dataset)
    assert seen == [False] * 3
    assert (model.training, model.extra.training, model.backbone.training) == (True, True, False)
    with torch.no_grad():
        model.unit.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        detect(model, dataset)
    assert model.training


def test_at_most_the_hundred_best_of_an_image_are_kept() -> None:
    dataset = pets()
    entries = detect(PerfectDetector(dataset, MODEL_CATEGORIES, queries=150), dataset.subset([0]))
    assert len(entries) == 100
    assert [entry["category_id"] for entry in entries[:2]] == [5, 17]


def test_more_detections_are_kept_if_asked_for() -> None:
    dataset = pets()
    model = PerfectDetector(dataset, MODEL_CATEGORIES, queries=150)
    assert len(detect(model, dataset.subset([0]), max_detections=120)) == 120
    assert len(detect(model, dataset.subset([0]), max_detections=1)) == 1
    figures = evaluate(model, dataset, max_detections=120).figures
    assert figures["AR120"] == pytest.approx(1.0)
    assert evaluate(model, dataset, max_detections=1).figures["AR1"] == pytest.approx(0.75)  # one cat; one dog of two
    with pytest.raises(ConfigurationError, match="0 detections per image count nothing"):
        detect(model, dataset, max_detections=0)


def test_papers_that_select_100_pairs_select_more_if_asked_for(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset([0])
    model = build("conditional-detr-compact", preprocessing=Preprocessing(64, 96), queries=20)
    hundred = detect(model, dataset)
    more = detect(model, dataset, max_detections=250)
    assert (len(hundred), len(more)) == (100, 250)
    assert [entry["score"] for entry in more[:100]] == [entry["score"] for entry in hundred]


def test_more_objects_than_queries_or_kept_detections_are_said() -> None:
    dataset = pets()
    model = PerfectDetector(dataset, MODEL_CATEGORIES)
    model.card = dataclasses.replace(model.card, config=model.card.config | {"queries": 1})
    assert compare(model, dataset, []).notes[-1] == (
        "The model has 1 query, and more objects are annotated in 1 image (the first: image_000000 with 2): it cannot find all of them; "
        "train a model with more --settings.queries."
    )
    model.card = dataclasses.replace(model.card, config=model.card.config | {"queries": 2})
    assert len(compare(model, dataset, []).notes) == 2  # of the reader and of spelling
    assert compare(model, dataset, [], max_detections=1).notes[-1] == (
        "--max-detections keeps 1 detection of each image, and more objects are annotated in 1 image (the first: image_000000 with 2): "
        "choose a higher number."
    )
    crowded = dataclasses.replace(dataset, crowd=np.array([False, True, False]))
    assert len(compare(model, crowded, [], max_detections=1).notes) == 2  # crowd regions need no query


def test_repeated_detections_are_left_out_if_asked_for() -> None:
    dataset = pets()
    model = PerfectDetector(
        dataset, MODEL_CATEGORIES
    )  # what it does not find are five or more equal boxes of each image
    everything = detect(model, dataset)
    assert len(everything) == len(dataset) * QUERIES
    assert detect(model, dataset, nms=1.0) == everything
    left = detect(model, dataset, nms=0.7)
    found = [entry for entry in everything if entry["score"] > 0.9]
    assert [entry for entry in left if entry["score"] > 0.9] == found
    assert len(left) == len(found) + len(dataset)
    assert evaluate(model, dataset, nms=0.7).detections == len(left)
    with pytest.raises(ConfigurationError, match=r"The NMS value 1\.5"):
        detect(model, dataset, nms=1.5)


def test_suppression_is_stored_where_it_helps_or_as_it_was_used() -> None:
    dataset = pets()
    card = PerfectDetector(dataset, MODEL_CATEGORIES).card
    plain = dataclasses.replace(compare(PerfectDetector(dataset, MODEL_CATEGORIES), dataset, []), best_threshold=0.3)

    def evaluation(low: float) -> Evaluation:
        suppression = Suppression(0.7, 0.4, 0.5, Interval(low, 0.2), 0.25, {5: 0.35})
        return dataclasses.replace(plain, suppression=suppression)

    helped = with_best_thresholds(card, dataset, evaluation(0.01))
    assert (helped.nms, helped.threshold, helped.class_thresholds) == (0.7, 0.25, {2: 0.35})
    for no_help in (evaluation(0.0), plain):
        again = with_best_thresholds(helped, dataset, no_help)
        assert (again.nms, again.threshold, again.class_thresholds) == (None, 0.3, {})
    assert with_best_thresholds(card, dataset, plain, nms=0.6).nms == 0.6
    kept = with_best_thresholds(card, dataset, evaluation(0.01), nms=1.0)
    assert (kept.nms, kept.threshold) == (None, 0.3)


def test_thresholds_go_to_the_outputs_that_stand_for_the_classes() -> None:
    dataset = pets()
    card = PerfectDetector(dataset, MODEL_CATEGORIES).card
    evaluation = dataclasses.replace(
        compare(PerfectDetector(dataset, MODEL_CATEGORIES), dataset, []), best_threshold=0.3
    )
    evaluation = dataclasses.replace(evaluation, class_thresholds={5: 0.6})
    changed = with_best_thresholds(card, dataset, evaluation)
    assert changed == dataclasses.replace(card, threshold=0.3, class_thresholds={2: 0.6})  # the cat is output 2
    older = dataclasses.replace(card, threshold=0.9, class_thresholds={0: 0.8})
    assert (
        with_best_thresholds(older, dataset, dataclasses.replace(evaluation, class_thresholds={})).class_thresholds
        == {}
    )
    without = dataclasses.replace(evaluation, best_threshold=None, class_thresholds={})
    assert with_best_thresholds(older, dataset, without) == older


@pytest.mark.parametrize("variant", ["detr-compact", "deformable-detr-compact", "light-detr-compact"])
def test_workers_change_no_bit_and_batches_less_than_a_millionth(shared: Path, variant: str) -> None:
    whole = open_dataset(shared / "data/coco", "val")
    same_size = np.flatnonzero((whole.sizes == [480, 640]).all(1))[:10]
    dataset = whole.subset(same_size)
    model = build(variant, preprocessing=Preprocessing(64, 96))
    single, together = detect(model, dataset), detect(model, dataset, batch_size=8)
    assert detect(model, dataset, workers=1) == single
    assert detect(model, dataset, batch_size=8, workers=2) == together
    scores = [np.array([entry["score"] for entry in entries]) for entries in (single, together)]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)  # matrix products of other sizes are rounded otherwise


@pytest.mark.parametrize(("batch_size", "workers"), [(8, 0), (3, 2)])
def test_figures_and_analysis_do_not_depend_on_batches_and_workers(shared: Path, batch_size: int, workers: int) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset(range(10))
    model = PerfectDetector(dataset, dataset.categories, queries=12)  # too few for some images, so that AP is not 1
    single = compare_in_detail(model, dataset, detect(model, dataset))
    again = detect(model, dataset, batch_size=batch_size, workers=workers)
    assert compare_in_detail(model, dataset, again) == single
    assert 0.3 < (single[0].figures["AP"] or 0) < 1
    assert compare(model, dataset, again) == single[0]


def test_a_data_set_without_objects_has_no_figures() -> None:
    dataset = pets(empty=True)
    assert set(evaluate(PerfectDetector(dataset, MODEL_CATEGORIES), dataset).figures.values()) == {None}


def test_classes_that_one_side_lacks_are_left_out_and_named() -> None:
    dataset = pets()
    # The bird, at the first output, wins all queries without an object.
    model = PerfectDetector(dataset, (Category(3, "bird", 0), Category(1, "dog", 1), Category(2, "cat", 2)))
    evaluation = evaluate(model, dataset)
    assert compare(model, dataset, detect(model, dataset)) == evaluation
    assert evaluation.notes[1:] == ("Detections of 1 class that the data set lacks were left out: bird.",)
    assert [entry["category_id"] for entry in detect(model, dataset)] == [5, 17, 17]


def test_classes_are_matched_by_id_where_that_is_asked_for() -> None:
    dataset = pets()
    renamed = dataclasses.replace(dataset, categories=(Category(5, "Katze", 0), Category(17, "Hund", 1)))
    model = PerfectDetector(dataset, (Category(17, "dog", 0), Category(5, "cat", 1)))
    for way in ("auto", "name"):
        with pytest.raises(DataError, match="are not those of pets val"):
            evaluate(model, renamed, match_by=way)
    assert model.seen == []
    evaluation = evaluate(model, renamed, match_by="id")
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert evaluation.notes[1:] == (
        "Classes were matched by id: 'Katze' is the model's 'cat' (5), and there are 2 such pairs.",
    )
    again = compare_in_detail(model, renamed, detect(model, renamed, match_by="id"), match_by="id")
    assert again[0] == evaluation
    thresholds = dataclasses.replace(evaluation, best_threshold=0.3, class_thresholds={5: 0.6})
    assert with_best_thresholds(model.card, renamed, thresholds, "id").class_thresholds == {1: 0.6}


def test_progress_goes_to_the_error_stream_of_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = pets()
    evaluate(PerfectDetector(dataset, MODEL_CATEGORIES), dataset)
    assert capfd.readouterr() == ("", "")
    evaluate(PerfectDetector(dataset, MODEL_CATEGORIES), dataset, progress=True)
    assert capfd.readouterr() == ("", "")  # no bars in a log file
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    evaluate(PerfectDetector(dataset, MODEL_CATEGORIES), dataset, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "evaluating" in err
    assert f"image {len(dataset)}/{len(dataset)}" in err


def test_an_evaluation_becomes_json() -> None:
    dataset = pets()
    text = json.dumps(evaluate(PerfectDetector(dataset, MODEL_CATEGORIES), dataset).to_json(), allow_nan=False)
    assert json.loads(text)["figures"]["AP50"] == pytest.approx(1.0)
