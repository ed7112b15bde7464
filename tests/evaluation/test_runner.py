"""A model that knows the truth must get full marks, through class matching, resizing, batching and result entries."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detrkit.data import ArrayImages, DetectionDataset, open_dataset
from detrkit.errors import DataError, NonFiniteError
from detrkit.evaluation.coco import evaluate_detections
from detrkit.evaluation.runner import compare, detect, evaluate, match_categories
from detrkit.files import write_json
from detrkit.models import detr
from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.structures import Category, ImageBatch, ModelCard, Output, Preprocessing

QUERIES = 8


class KnowingDetector(Detector):
    """Gives the annotated boxes of a data set, under its own class indices; remembers the batches it was shown."""

    def __init__(self, dataset: DetectionDataset, categories: Sequence[Category], queries: int = QUERIES) -> None:
        parts: dict[str, Any] = {
            name: nn.Dropout() for name in ("backbone", "neck", "encoder", "query_source", "decoder", "heads")
        }
        config = dataclasses.asdict(detr.Config(classes=1 + max(category.index for category in categories)))
        super().__init__(**parts, card=ModelCard("detr", "knowing", config, tuple(categories), Preprocessing(64, 128)))
        self.dataset, self.queries = dataset, queries
        self.places = {int(number): place for place, number in enumerate(dataset.image_ids)}
        self.unit = nn.Parameter(torch.ones(()))
        self.seen: list[ImageBatch] = []

    def forward(self, batch: ImageBatch, targets: object = None) -> Output:
        assert batch.image_ids is not None
        self.seen.append(batch)
        pairs = [self._known(self.places[number]) for number in batch.image_ids.tolist()]
        return Output(*(torch.stack(parts)[None] * self.unit for parts in zip(*pairs, strict=True)))

    def _known(self, place: int) -> tuple[Tensor, Tensor]:
        indices = {category.name.casefold(): category.index for category in self.card.categories}
        logits = torch.zeros(self.queries, self.card.config["classes"] + 1)
        boxes = torch.full((self.queries, 4), 0.5)
        objects = self.dataset.objects(place)
        height, width = self.dataset.sizes[place]
        for query, (box, label) in enumerate(zip(objects.boxes_xyxy, objects.labels, strict=True)):
            left, top, right, bottom = box / [width, height, width, height]
            boxes[query] = torch.tensor([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
            logits[query, indices[self.dataset.categories[label].name.casefold()]] = 20.0
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


# Other order, other ids, other letters than the data set's; index 1 names no category.
OWN = (Category(1, "Dog", 0), Category(2, "CAT", 2))


def test_knowing_the_truth_gives_full_marks() -> None:
    dataset = pets()
    evaluation = evaluate(KnowingDetector(dataset, OWN), dataset)
    assert evaluation.figures["AP"] == pytest.approx(1.0)
    assert [(entry.name, entry.id, entry.ap) for entry in evaluation.classes] == [
        ("cat", 5, pytest.approx(1.0)),
        ("dog", 17, pytest.approx(1.0)),
    ]
    assert (evaluation.name, evaluation.images, evaluation.objects) == ("pets val", 3, 3)
    assert evaluation.notes == ("A note of the reader.",)


def test_entries_have_the_data_sets_ids_and_pixels_in_its_order() -> None:
    dataset = pets()
    entries = detect(KnowingDetector(dataset, OWN), dataset)
    assert [entry["image_id"] for entry in entries] == [70] * QUERIES + [8] * QUERIES + [33] * QUERIES
    best = [entry for entry in entries if entry["score"] > 0.9]
    assert [(entry["image_id"], entry["category_id"]) for entry in best] == [(70, 5), (70, 17), (33, 17)]
    np.testing.assert_allclose(
        [entry["bbox"] for entry in best], [[5, 6, 20, 20], [30, 10, 20, 28], [2, 2, 20, 30]], atol=1e-4
    )


def test_real_data_with_its_odd_category_ids_gives_full_marks(shared: Path) -> None:
    dataset = open_dataset(shared / "data/roboflow_sample", "valid")
    model = KnowingDetector(dataset, dataset.categories, queries=40)
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
    np.testing.assert_allclose([entry["bbox"] for entry in single], [entry["bbox"] for entry in together], atol=1e-2)
    assert {entry["category_id"] for entry in single} <= {category.id for category in dataset.categories}
    file = write_json(tmp_path / "results.json", single)
    assert evaluate_detections(dataset.to_coco(), file).figures == evaluate(model, dataset).figures


def test_images_are_never_padded_and_share_batches_by_size(shared: Path) -> None:
    dataset = open_dataset(shared / "data/coco", "val").subset(range(8))
    model = KnowingDetector(dataset, dataset.categories, queries=50)
    detect(model, dataset, batch_size=4)
    assert all(batch.padding is None for batch in model.seen)
    shapes = [tuple(batch.pixels.shape[2:]) for batch in model.seen]
    assert sum(len(batch.pixels) for batch in model.seen) == 8
    assert len(shapes) == len(set(shapes)) < 8


def test_the_model_gets_its_mode_back_part_by_part() -> None:
    dataset = pets()
    model = KnowingDetector(dataset, OWN).train()
    model.backbone.eval()
    seen: list[bool] = []
    model.register_forward_hook(lambda *_: seen.append(model.training or model.neck.training))
    detect(model, dataset)
    assert seen == [False] * 3
    assert (model.training, model.neck.training, model.backbone.training) == (True, True, False)
    with torch.no_grad():
        model.unit.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        detect(model, dataset)
    assert model.training


def test_at_most_the_hundred_best_of_an_image_are_kept() -> None:
    dataset = pets()
    entries = detect(KnowingDetector(dataset, OWN, queries=150), dataset.subset([0]))
    assert len(entries) == 100
    assert [entry["category_id"] for entry in entries[:2]] == [5, 17]


def test_a_data_set_without_objects_has_no_figures() -> None:
    dataset = pets(empty=True)
    assert set(evaluate(KnowingDetector(dataset, OWN), dataset).figures.values()) == {None}


def test_classes_that_one_side_lacks_are_left_out_and_named() -> None:
    dataset = pets()
    # The bird, at the first output, wins all queries that have no object.
    model = KnowingDetector(dataset, (Category(3, "bird", 0), Category(1, "dog", 1), Category(2, "cat", 2)))
    evaluation = evaluate(model, dataset)
    assert compare(model, dataset, detect(model, dataset)) == evaluation
    assert evaluation.notes[1:] == ("Detections of 1 class that the data set lacks were left out: bird.",)
    assert [entry["category_id"] for entry in detect(model, dataset)] == [5, 17, 17]

    match = match_categories([Category(1, "dog", 4)], dataset)
    assert match.ids == {4: 17}
    assert match.notes == ("The model does not know 1 class of the data set, counted with AP 0: cat.",)


def test_where_no_name_is_the_same_ids_decide_and_it_is_said() -> None:
    match = match_categories([Category(17, "Hund", 0), Category(5, "Katze", 3)], pets())
    assert match.ids == {3: 5, 0: 17}
    assert match.notes == (
        "No class name is the same, so classes were matched by id: 'cat' is the model's 'Katze' (5), and so on.",
    )


def test_ids_do_not_decide_where_names_do() -> None:
    match = match_categories([Category(17, "cat", 0), Category(5, "bird", 1)], pets())
    assert match.ids == {0: 5}


def test_nothing_in_common_is_an_error_that_names_both_sides() -> None:
    strangers = [Category(number, f"thing {number}", number) for number in range(100, 120)]
    with pytest.raises(DataError) as caught:
        match_categories(strangers, pets())
    assert str(caught.value) == (
        "No class of pets val (cat, dog) is known to the model (thing 100, thing 101, thing 102, thing 103, thing 104 and 15 more), "
        "neither by name nor by id: use a model that was trained on these classes."
    )


def test_progress_goes_to_the_error_stream_of_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = pets()
    evaluate(KnowingDetector(dataset, OWN), dataset)
    assert capfd.readouterr() == ("", "")
    evaluate(KnowingDetector(dataset, OWN), dataset, progress=True)
    assert capfd.readouterr() == ("", "")  # a log file wants no bars
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    evaluate(KnowingDetector(dataset, OWN), dataset, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "pets val" in err


def test_an_evaluation_becomes_json() -> None:
    dataset = pets()
    text = json.dumps(evaluate(KnowingDetector(dataset, OWN), dataset).to_json(), allow_nan=False)
    assert json.loads(text)["figures"]["AP50"] == pytest.approx(1.0)
