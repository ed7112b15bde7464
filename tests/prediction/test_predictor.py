"""A predictor returns boxes in the original picture, whatever form it has, from any thread, however pictures are grouped."""

from __future__ import annotations

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision as sv
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment
from torch import nn

from detrkit.cards import Category, ModelCard, Preprocessing
from detrkit.checkpoints import save
from detrkit.errors import ConfigurationError, DataError, NonFiniteError
from detrkit.models import detr
from detrkit.models.catalog import build
from detrkit.models.detector import Detector
from detrkit.prediction.predictor import Predictor
from detrkit.structures import ImageBatch, Output

CATEGORIES = (Category(90, "toothbrush", 0), Category(3, "car", 1))
HALF = [0.5, 0.5, 0.5, 0.5]


class FixedDetector(Detector):
    """Finds the same two objects in every picture: a car with score 0.8 and a toothbrush with 0.3; records the batches it gets."""

    def __init__(self, *, threshold: float = 0.5) -> None:
        config = dataclasses.asdict(detr.Config(class_count=2))
        preprocessing = Preprocessing(short_side=64, long_side=256)
        card = ModelCard("detr", "fixed", config, CATEGORIES, preprocessing, threshold)
        super().__init__(backbone=nn.Identity(), card=card)  # type: ignore[arg-type]
        self.scores = nn.Parameter(torch.tensor([[0.3, 0.1, 0.6], [0.1, 0.8, 0.1]]))
        self.seen: list[ImageBatch] = []

    def forward(self, batch: ImageBatch, targets: object = None) -> Output:
        self.seen.append(batch)
        count = len(batch.pixels)
        boxes = torch.tensor([[0.25, 0.25, 0.1, 0.1], HALF])
        return Output(self.scores.log().expand(1, count, 2, 3), boxes.expand(1, count, 2, 4))


@pytest.fixture
def real_model() -> Detector:
    """A complete detector with random weights, so that every picture gives different results."""
    return build("detr-compact", classes=CATEGORIES, preprocessing=Preprocessing(64, 96), queries=10)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(first: sv.Detections, second: sv.Detections, tolerance: float = 1e-3) -> bool:
    """Whether both have the same detections, of which two with nearly equal scores may come in either order."""
    assert first.confidence is not None
    assert second.confidence is not None
    if len(first) != len(second) or not np.allclose(first.confidence, second.confidence, rtol=0, atol=tolerance):
        return False
    ours, theirs = (np.column_stack([each.xyxy, each.class_id]).astype(float) for each in (first, second))
    rows, columns = linear_sum_assignment(np.abs(ours[:, None] - theirs).max(-1))
    return bool(
        np.allclose(ours[rows], theirs[columns], rtol=0, atol=tolerance)
        and np.allclose(first.confidence[rows], second.confidence[columns], rtol=0, atol=tolerance)
    )


def test_boxes_are_in_pixels_of_the_picture_and_classes_have_the_categories_ids_and_names() -> None:
    detections = Predictor(FixedDetector(), threshold=0.2)(picture(40, 100))
    np.testing.assert_allclose(detections.xyxy, [[25, 10, 75, 30], [20, 8, 30, 12]], atol=1e-4)
    np.testing.assert_allclose(detections.confidence, [0.8, 0.3], atol=1e-6)
    assert detections.class_id is not None
    assert detections.class_id.tolist() == [3, 90]
    assert detections.data["class_name"].tolist() == ["car", "toothbrush"]


def test_the_threshold_is_the_models_own_unless_given() -> None:
    model = FixedDetector()
    assert len(Predictor(model)(picture(20, 20))) == 1
    assert len(Predictor(FixedDetector(threshold=0.25))(picture(20, 20))) == 2
    assert len(Predictor(model, threshold=0.0)(picture(20, 20))) == 2
    nothing = Predictor(model, threshold=0.9)(picture(20, 20))
    assert len(nothing) == 0
    assert nothing.data["class_name"].tolist() == []
    assert len(Predictor(model, threshold=0.9).raw([picture(20, 20)])[0]) == 2


def test_classes_have_thresholds_of_their_own_unless_one_is_given() -> None:
    model = FixedDetector(threshold=0.5)
    model.card = dataclasses.replace(model.card, class_thresholds={0: 0.25})  # of the toothbrush
    predictor = Predictor(model)
    assert predictor.class_thresholds == {90: 0.25}
    assert predictor(picture(20, 20)).data["class_name"].tolist() == ["car", "toothbrush"]
    model.card = dataclasses.replace(model.card, class_thresholds={1: 0.85})  # of the car
    assert len(Predictor(model)(picture(20, 20))) == 0
    model.card = dataclasses.replace(model.card, class_thresholds={0: 0.25, 1: 0.85})
    assert Predictor(model)(picture(20, 20)).data["class_name"].tolist() == ["toothbrush"]
    given = Predictor(model, threshold=0.4)
    assert given.class_thresholds == {}
    assert given(picture(20, 20)).data["class_name"].tolist() == ["car"]


def test_a_score_that_is_exactly_the_threshold_counts() -> None:
    model = FixedDetector()
    found = Predictor(model, threshold=0.0)(picture(20, 20))
    assert found.confidence is not None
    assert found.confidence.dtype == np.float32
    for score in found.confidence.tolist():
        assert score in Predictor(model, threshold=score)(picture(20, 20)).confidence
    assert len(Predictor(model, threshold=0.8)(picture(20, 20))) == 1


def test_one_picture_gives_detections_and_a_list_gives_a_list() -> None:
    predictor = Predictor(FixedDetector())
    assert isinstance(predictor(picture(20, 20)), sv.Detections)
    assert [isinstance(result, sv.Detections) for result in predictor([picture(20, 20)])] == [True]
    assert predictor([]) == []


def test_every_form_of_a_picture_gives_the_same(real_model: Detector, tmp_path: Path) -> None:
    image = picture(50, 70)
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    forms = [
        image,
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        pixels,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ]
    results = Predictor(real_model, threshold=0.0)(forms)
    assert len(results[0]) == 10
    assert all(same(results[0], other) for other in results[1:])


def test_batches_are_several_pictures_whatever_the_order_of_their_axes(real_model: Detector) -> None:
    pixels = np.stack([np.asarray(picture(50, 70, seed)) for seed in range(3)])
    predictor = Predictor(real_model, threshold=0.0)
    expected = [predictor(image) for image in pixels]
    channels_first = pixels.transpose(0, 3, 1, 2).copy()
    for batch in (pixels, channels_first, pixels / 255, torch.from_numpy(channels_first)):
        found = predictor(batch)
        assert len(found) == 3
        assert all(same(first, second) for first, second in zip(found, expected, strict=True))
    streamed = [each.detections for each in predictor.stream(channels_first)]
    assert all(same(first, second) for first, second in zip(streamed, expected, strict=True) if first is not None)


class RepeatingDetector(FixedDetector):
    """Finds a car with score 0.8 twice, the second time with 0.7 and an IoU of 0.9, and a toothbrush with 0.6 in the first place."""

    def forward(self, batch: ImageBatch, targets: object = None) -> Output:
        count = len(batch.pixels)
        logits = torch.tensor([[0.1, 0.7, 0.2], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1]]).log()
        boxes = torch.tensor([[0.5, 0.5, 0.45, 0.5], HALF, HALF])
        return Output(logits.expand(1, count, 3, 3) + 0 * self.scores.sum(), boxes.expand(1, count, 3, 4))


def scores_of(detections: sv.Detections) -> list[float]:
    assert detections.confidence is not None
    return [round(score, 2) for score in detections.confidence.tolist()]


def test_suppression_leaves_out_what_repeats_a_better_one_of_its_class() -> None:
    image = picture(40, 100)
    assert scores_of(Predictor(RepeatingDetector())(image)) == [0.8, 0.7, 0.6]
    assert scores_of(Predictor(RepeatingDetector(), nms=0.7)(image)) == [0.8, 0.6]
    assert scores_of(Predictor(RepeatingDetector(), nms=0.95)(image)) == [0.8, 0.7, 0.6]


def test_suppression_is_that_of_the_card_unless_given() -> None:
    model = RepeatingDetector()
    model.card = dataclasses.replace(model.card, nms=0.7)
    image = picture(40, 100)
    assert scores_of(Predictor(model)(image)) == [0.8, 0.6]
    assert scores_of(Predictor(model, nms=1)(image)) == [0.8, 0.7, 0.6]
    assert [scores_of(each.detections) for each in Predictor(model).stream([image]) if each.detections] == [[0.8, 0.6]]
    assert scores_of(Predictor(model).raw([image])[0]) == [0.8, 0.7, 0.6]


def test_a_call_chooses_for_itself() -> None:
    predictor, image = Predictor(RepeatingDetector()), picture(40, 100)
    assert scores_of(predictor(image, threshold=0.65)) == [0.8, 0.7]
    assert [scores_of(each) for each in predictor([image], nms=0.7)] == [[0.8, 0.6]]
    assert predictor(image, classes=["Toothbrush"]).data["class_name"].tolist() == ["toothbrush"]
    assert scores_of(predictor(image)) == [0.8, 0.7, 0.6]
    with pytest.raises(ConfigurationError, match="The threshold 7 is not a score"):
        predictor(image, threshold=7)
    one_class = predictor.changed(classes=["car"], threshold=0.75)
    assert scores_of(one_class(image)) == [0.8]


def test_a_predictor_in_one_line() -> None:
    assert repr(Predictor(FixedDetector())) == "Predictor(fixed, 2 classes, threshold=0.500)"
    assert repr(Predictor(FixedDetector(), nms=0.7)) == "Predictor(fixed, 2 classes, threshold=0.500, nms=0.7)"


def test_a_path_stands_for_the_model_in_it(real_model: Detector, tmp_path: Path) -> None:
    file, image = save(real_model.eval(), tmp_path / "best.safetensors"), picture(50, 70)
    expected = Predictor(real_model, threshold=0.0)(image)
    for path in (file, str(file), tmp_path):
        assert same(Predictor(path, threshold=0.0)(image), expected)


def test_a_turned_photo_gives_boxes_of_the_photo_as_it_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(40, 100).save(tmp_path / "turned.jpg", exif=exif)
    detections = Predictor(FixedDetector())(tmp_path / "turned.jpg")
    np.testing.assert_allclose(detections.xyxy, [[10, 25, 30, 75]], atol=1e-4)


def test_batches_hold_pictures_of_one_size_and_results_keep_the_order() -> None:
    model = FixedDetector()
    sizes = [(20, 40), (30, 30), (40, 80), (20, 40), (60, 60), (10, 20)]
    results = Predictor(model, batch_size=2)([picture(*size) for size in sizes])
    expected = [[width / 4, height / 4, width * 3 / 4, height * 3 / 4] for height, width in sizes]
    np.testing.assert_allclose([detections.xyxy[0] for detections in results], expected, atol=1e-4)
    assert [tuple(batch.pixels.shape) for batch in model.seen] == [(2, 3, 64, 128), (2, 3, 64, 64), (2, 3, 64, 128)]
    assert all(batch.padding is None for batch in model.seen)


@pytest.mark.parametrize("smallest_side", [64, 128])
def test_thin_pictures_are_padded_to_the_models_smallest_side(smallest_side: int) -> None:
    model = FixedDetector()
    preprocessing = dataclasses.replace(model.card.preprocessing, smallest_side=smallest_side)
    model.card = dataclasses.replace(model.card, preprocessing=preprocessing)
    Predictor(model)(picture(20, 160))  # 32 x 256 after resizing
    assert tuple(model.seen[0].pixels.shape) == (1, 3, smallest_side, 256)
    padding = model.seen[0].padding
    assert padding is not None
    assert (~padding[0]).sum(0).tolist() == [32] * 256


def test_a_list_gives_the_same_as_single_pictures(real_model: Detector) -> None:
    pictures = [picture(50 + 10 * (seed % 3), 70, seed) for seed in range(7)]
    predictor = Predictor(real_model, threshold=0.0, batch_size=3)
    single = [predictor(image) for image in pictures]
    assert all(same(first, second, 1e-3) for first, second in zip(predictor(pictures), single, strict=True))
    assert not same(single[0], single[3], 1e-3)


def test_threads_that_share_a_predictor_never_mix_results(real_model: Detector) -> None:
    predictor = Predictor(real_model, threshold=0.0, batch_size=2)
    pictures = [[picture(40 + 4 * thread, 60, 10 * thread + number) for number in range(3)] for thread in range(4)]
    expected = [predictor(images) for images in pictures]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(predictor, images) for _ in range(5) for images in pictures]
            results_of_calls = [call.result() for call in calls]
    finally:
        sys.setswitchinterval(interval)
    for number, results in enumerate(results_of_calls):
        assert all(same(first, second, 1e-3) for first, second in zip(results, expected[number % 4], strict=True))


def test_two_threads_predict_with_deformable_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call distributes its heads over helper threads, which both callers need at the same time."""
    kernels = pytest.importorskip("detrkit.layers.sampling.numba_kernels")
    monkeypatch.setattr(kernels, "POINTS_WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        model = build("deformable-detr-compact-two-stage", classes=["a", "b"], encoder_layers=1).eval()
        for head in model.heads.box_heads:
            torch.nn.init.normal_(head.layers[-1].weight, std=0.2)  # makes boxes depend on the picture
        predictor = Predictor(model, threshold=0.0)
        pictures = [[picture(64 + 16 * thread, 96, 10 * thread + number) for number in range(3)] for thread in range(2)]
        expected = [predictor(images) for images in pictures]
        assert not same(expected[0][0], expected[0][1], 1e-2)
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(predictor, images) for _ in range(4) for images in pictures]
            results_of_calls = [call.result() for call in calls]
    finally:
        torch.set_num_threads(before)
    for number, results in enumerate(results_of_calls):
        assert all(same(first, second, 1e-2) for first, second in zip(results, expected[number % 2], strict=True))


def test_the_model_is_in_eval_mode_and_has_to_stay_there(real_model: Detector) -> None:
    real_model.train()
    predictor = Predictor(real_model)
    assert not any(module.training for module in real_model.modules())
    real_model.train()
    with pytest.raises(
        ConfigurationError, match=r"put in training mode after its predictor was created: call model\.eval\(\)"
    ):
        predictor(picture(20, 20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.5}, "The threshold 1.5 is not a score: choose one from 0 to 1"),
        ({"threshold": -0.1}, "The threshold -0.1"),
        ({"threshold": float("nan")}, "The threshold nan"),
        ({"batch_size": 0}, "The batch size 0 is too small"),
        (
            {"nms": 0.0},
            "The NMS value 0 is no IoU for suppression: choose one above 0, such as 0.7, up to 1, which keeps",
        ),
        ({"nms": 1.5}, "The NMS value 1.5"),
        ({"classes": ["car", "tothbrush"]}, "The model knows no class 'tothbrush': did you mean 'toothbrush'?"),
        ({"classes": []}, "No classes were chosen: name at least one"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Predictor(FixedDetector(), **settings)


def test_a_device_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"^the device 'cuda:1' is not available: choose auto or cpu$"):
        Predictor(FixedDetector(), device="cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match=r"^there is no 'cuda:1': this machine has 1 CUDA devices$"):
        Predictor(FixedDetector(), device=torch.device("cuda", 1))


def test_an_input_that_is_not_a_picture_is_named(tmp_path: Path) -> None:
    predictor = Predictor(FixedDetector())
    with pytest.raises(DataError, match=r"missing\.jpg does not exist"):
        predictor([picture(20, 20), tmp_path / "missing.jpg"])
    with pytest.raises(DataError, match=r"An array \(4, 4, 3\) of int64 is not an image"):
        predictor(np.zeros((4, 4, 3), dtype=np.int64))


def test_damaged_weights_are_reported(real_model: Detector) -> None:
    with torch.no_grad():
        next(real_model.heads.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="scores or boxes that are NaN or infinite"):
        Predictor(real_model)(picture(20, 20))


def test_half_precision_models_get_half_precision_pixels() -> None:
    model = FixedDetector().to(torch.bfloat16)
    detections = Predictor(model)(picture(40, 100))
    assert model.seen[0].pixels.dtype == torch.bfloat16
    assert detections.xyxy.dtype == np.float32
    np.testing.assert_allclose(detections.xyxy, [[25, 10, 75, 30]], atol=0.5)
