"""What a run says of problems that can be mended: each is provoked, and none is found where all is well."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from training.small_runs import SMALL, run

import detrkit
from detrkit.errors import NonFiniteError, OutputError
from detrkit.measures import MATCHED_CLASS_ACCURACY
from detrkit.structures import ImageBatch, Target
from detrkit.training import diagnosis
from detrkit.training.diagnosis import chance_of, first_not_finite, flat_accuracy, same_predictions, too_high
from detrkit.training.learning import Learning
from detrkit.training.module import TrainingModule


def course(*totals: float, accuracy: float | None = 0.5) -> list[Learning]:
    return [Learning(total, {MATCHED_CLASS_ACCURACY.name: accuracy}) for total in totals]


@pytest.mark.parametrize(
    ("totals", "is_said"),
    [((14.0, 14.0), True), ((11.0, 14.0, 12.0), False), ((14.0,), False), ((10.0, 8.0, 9.0, 7.0), False)],
)
def test_a_loss_that_rises(totals: tuple[float, ...], is_said: bool) -> None:
    found = too_high(10.0, course(*totals), lr=1e-3, batch_size=4)
    assert (found is not None) == is_said
    if found is not None:
        assert found == (
            "the loss has risen from 10 to 14, so the learning rate 0.001 is too high for batches of 4 images: stop, and train anew with "
            "--lr 0.0002 or larger batches"
        )


@pytest.mark.parametrize(
    ("values", "chance", "is_said"),
    [
        ([0.2] * 10, 0.2, True),
        ([0.2] * 2, 0.2, False),  # too early
        ([0.2] * 8 + [0.3, 0.2], 0.2, False),
        ([0.4] * 10, 0.2, False),  # not much, but better than chance
        ([0.05] * 10, 0.2, True),
        ([1.0] * 10, 1.0, False),  # one class only
    ],
)
def test_an_accuracy_that_stays(values: list[float], chance: float, is_said: bool) -> None:
    steps = [each for value in values for each in course(1.0, accuracy=value)]
    found = flat_accuracy(steps, chance)
    assert (found is not None) == is_said
    assert flat_accuracy(course(*[1.0] * 10, accuracy=None), chance) is None  # no objects at all
    if found is not None:
        assert f"stays at {values[-1]:.0%}, and always naming the most frequent class would give 20%: check" in found


def test_the_accuracy_of_naming_the_most_frequent_class(digits_folder: Path) -> None:
    dataset = detrkit.open_dataset(digits_folder, "train")
    counts = [int((dataset.labels == label).sum()) for label in range(10)]
    assert chance_of(dataset) == pytest.approx(max(counts) / sum(counts))


def small_model(**changes: Any) -> detrkit.Detector:
    return detrkit.build("detr-compact", classes=["a", "b"], **SMALL["settings"], **changes)


def batch() -> ImageBatch:
    """An image of noise and one with a bright half."""
    half = torch.zeros(3, 64, 64)
    half[:, :32] = 3.0
    return ImageBatch(torch.stack([2 * torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)), half]))


def test_predictions_that_do_not_depend_on_the_image() -> None:
    model = small_model()
    images = batch()
    assert same_predictions(model, [images]) is None
    apart = [ImageBatch(images.pixels[:1]), ImageBatch(images.pixels[1:, :, :, :48])]  # a piece of one image each
    assert same_predictions(model, apart) is None
    with torch.no_grad():
        for name, value in model.neck.named_parameters():
            if "weight" in name:
                value.zero_()
    for batches in ([images], apart):
        found = same_predictions(model, batches)
        assert found is not None
        assert found.startswith("the predictions are still the same for all images: ")
    assert same_predictions(model, apart[:1]) is None


def test_one_image_is_not_compared_with_itself() -> None:
    pixels = torch.zeros(1, 3, 8, 8)
    one, same, other = (ImageBatch(pixels, image_ids=torch.tensor([number])) for number in (4, 4, 5))
    assert diagnosis._of_different_images(one, same) == [same]
    assert diagnosis._of_different_images(one, other) == [one, other]
    assert diagnosis._of_different_images(None, other) == [other]


def test_the_first_tensor_that_is_not_finite() -> None:
    targets = [Target(torch.tensor([0]), torch.full((1, 4), 0.5))] * 2
    model, images = small_model().train(), batch()
    assert first_not_finite(model, images, targets) == "the loss itself"
    broken = images.pixels.clone()
    broken[1, 0, 3, 3] = torch.inf
    assert first_not_finite(model, ImageBatch(broken), targets) == "the pixels of the batch"
    assert (
        first_not_finite(model, images, [Target(torch.tensor([0]), torch.full((1, 4), torch.nan))] * 2)
        == "the boxes of the batch"
    )
    with torch.no_grad():
        model.encoder.layers[0].feed_forward.register_forward_hook(lambda *_: torch.full_like(_[2], torch.nan))
    assert first_not_finite(model, images, targets).startswith("the output of encoder.layers.0.feed_forward")
    with torch.no_grad():
        next(model.heads.parameters()).fill_(torch.nan)
    assert first_not_finite(model, images, targets).startswith("the weights heads.")


def test_a_loss_that_is_not_finite_leaves_its_batch(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingModule.training_step

    def poisoned(self: TrainingModule, given: Any, index: int) -> Any:
        if self.global_step == 1:
            with torch.no_grad():
                self.model.heads.box_head.layers[-1].bias.fill_(float("nan"))
        return step(self, given, index)

    monkeypatch.setattr(TrainingModule, "training_step", poisoned)
    with pytest.raises(NonFiniteError, match="step 2"):
        run(digits_folder, tmp_path / "run", steps=3)
    kept = torch.load(tmp_path / "run" / "not_finite.pt", weights_only=True)
    assert kept["first"] == "the weights heads.box_head.layers.2.bias"
    assert (kept["step"], len(kept["pixels"]), len(kept["targets"])) == (2, 4, 4)
    assert kept["weights"]["heads.box_head.layers.2.bias"].isnan().all()
    assert kept["optimizer"]["state"]


def test_where_a_loss_was_not_finite_first_is_said_also_if_nothing_can_be_kept(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: TrainingModule, given: Any, index: int) -> Any:
        with torch.no_grad():
            self.model.heads.box_head.layers[-1].bias.fill_(float("nan"))
        return step(self, given, index)

    def refuse(*_: object) -> None:
        raise OutputError("not_finite.pt cannot be written (No space left on device)")

    step, said = TrainingModule.training_step, []
    monkeypatch.setattr(TrainingModule, "training_step", poisoned)
    monkeypatch.setattr(diagnosis, "write_pickled", refuse)
    begin = diagnosis.Diagnosis.__init__
    monkeypatch.setattr(
        diagnosis.Diagnosis, "__init__", lambda self, _, *rest, **more: begin(self, said.append, *rest, **more)
    )
    with pytest.raises(NonFiniteError):
        run(digits_folder, tmp_path / "run", steps=3)
    assert said == [
        "Not finite first: the weights heads.box_head.layers.2.bias. The batch, the weights and the optimizer's state are not kept, since "
        "not_finite.pt cannot be written (No space left on device)."
    ]


@pytest.mark.parametrize("pieces", [1, 4])
def test_predictions_that_stay_the_same_and_classes_that_are_not_learned_are_said(
    pieces: int, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is learned with a rate of next to nothing, and a neck without weights shows the model no image. A run that goes on has seen it."""
    monkeypatch.setattr(diagnosis.Diagnosis.__init__, "__kwdefaults__", {"window": 3})  # one epoch
    monkeypatch.setattr(diagnosis, "_ENOUGH", 4)
    monkeypatch.setattr("detrkit.training.run.write_everything", lambda folder, *_: folder)
    begin = TrainingModule.__init__

    def blind(self: TrainingModule, model: Any, *arguments: Any, **options: Any) -> None:
        with torch.no_grad():
            for name, value in model.neck.named_parameters():
                if "weight" in name:
                    value.zero_()
        begin(self, model, *arguments, **options)

    monkeypatch.setattr(TrainingModule, "__init__", blind)
    monkeypatch.setattr(diagnosis, "chance_of", lambda _: 0.5)
    options: dict[str, Any] = {"lr": 1e-12, "backbone_lr": 0.0, "warmup_steps": 0, "evaluate_every": 9}
    options |= {"flip": 0.0, "crop": False, "multi_scale": False, "settings": {**SMALL["settings"], "dropout": 0.0}}
    folder = tmp_path / "run"
    _, printed = run(digits_folder, folder, accumulate=pieces, steps=9, **options)
    assert "Warning: " not in printed  # three looks are too few
    console = Console(file=io.StringIO(), width=4000)
    detrkit.train(resume=folder, steps=12, console=console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("Warning: the predictions are still the same for all images") == 1
    assert said.count("Warning: the matched class accuracy stays at ") == 1
    console = Console(file=io.StringIO(), width=4000)
    detrkit.train(resume=folder, steps=15, console=console)
    assert "Warning: " not in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_learning_rate_that_is_too_high_is_said(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis.Diagnosis.__init__, "__kwdefaults__", {"window": 3})
    monkeypatch.setattr("detrkit.training.run.write_everything", lambda folder, *_: folder)
    options: dict[str, Any] = {"epochs": 3, "evaluate_every": 3, "warmup_steps": 0, "gradient_clip": 100.0}
    _, printed = run(digits_folder, tmp_path / "run", lr=1.0, backbone_lr=1.0, **options)
    words = "so the learning rate 1 is too high for batches of 4 images: stop, and train anew with --lr 0.2"
    assert " ".join(printed.split()).count(words) == 1
    _, printed = run(digits_folder, tmp_path / "fine", lr=1e-3, **options)
    assert "Warning: " not in printed
