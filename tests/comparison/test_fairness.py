"""What is said about contestants that were not made alike, and about trainings that differ."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from comparison.made_runs import compared

from detrkit.comparison import Comparison, ContestantFigures
from detrkit.comparison.contestants import Contestant
from detrkit.comparison.fairness import evaluation_notes, fairness_notes
from detrkit.comparison.figures import Training
from detrkit.comparison.origins import origin_of
from detrkit.comparison.outcome import Outcome
from detrkit.comparison.plan import validation_of
from detrkit.comparison.runs import Run
from detrkit.training.options import resolve
from detrkit.training.run_folder import append_to_log, create
from detrkit.training.training_options import TrainingOptions


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Comparison:
    finds = {"one": lambda *_: True, "two": lambda place, _: place % 2 == 0}
    return compared(tmp_path_factory.mktemp("made"), digits_folder, finds)


def with_notes(contestant: ContestantFigures, *notes: tuple[str, ...]) -> ContestantFigures:
    """The contestant with a training of each seed from 0 on, whose evaluations have these notes."""
    training = contestant.trainings[0]
    evaluation = training.outcome.evaluation
    assert evaluation is not None
    trainings = [
        replace(
            training,
            run=replace(training.run, seed=seed),
            outcome=replace(training.outcome, evaluation=replace(evaluation, notes=list(own))),
        )
        for seed, own in enumerate(notes)
    ]
    return replace(contestant, trainings=tuple(trainings))


def repeats(share: str, ap: str) -> str:
    return f"{share} of detections repeat: suppress them by --nms 0.7 (AP {ap} instead of 0.004)."


def test_notes_of_several_trainings_give_ranges_and_seeds(made: Comparison) -> None:
    first = with_notes(made.contestants[0], (repeats("11%", "0.006"),), (repeats("9%", "0.005"),))
    second = with_notes(
        made.contestants[1], ("No class fits.",), ("No class fits.", "Only 3 classes."), ("No class fits.",)
    )
    assert evaluation_notes([first, second]) == [
        "one: 9% to 11% of detections repeat: suppress them by --nms 0.7 (AP 0.005 to 0.006 instead of 0.004).",
        "two: No class fits.",
        "two with seed 1: Only 3 classes.",
    ]
    third = with_notes(made.contestants[0], ("No class fits.",))
    fourth = with_notes(made.contestants[1], ("No class fits.",), ("No class fits.",))
    assert evaluation_notes([third, fourth]) == ["No class fits."]
    classes = with_notes(made.contestants[0], ("Only 3 classes.",), ("Only 4 classes.",))  # nothing that was measured
    assert evaluation_notes([classes]) == ["one with seed 0: Only 3 classes.", "one with seed 1: Only 4 classes."]


def test_of_checkpoints_alone_it_is_said_what_is_not_known(made: Comparison) -> None:
    (note,) = fairness_notes(made.contestants)
    assert note == (
        "What one, two learned from, and for how long, is not known: that may explain a difference as well as the model does. It may have "
        "learned from the very images of this comparison."
    )
    origin = origin_of(made.contestants[0])
    assert (origin.variant, origin.sides, origin.options, origin.length) == ("detr-compact", (64, 64), None, "")


def test_runs_of_checkpoints_tell_data_lengths_and_sizes(made: Comparison, digits_folder: Path, tmp_path: Path) -> None:
    dataset = validation_of(str(digits_folder), {})
    contestants = []
    for each, side, steps in zip(made.contestants, (64, 96), (5, 8), strict=True):
        folder = tmp_path / each.name
        options = TrainingOptions("detr-compact", str(digits_folder), output=str(folder), batch_size=1, short_side=side)
        create(resolve(options), dataset)
        append_to_log(folder / "log.csv", {"epoch": 2, "step": steps})
        contestants.append(replace(each, checkpoint=str(folder / "best.safetensors")))
    sizes, lengths = fairness_notes(contestants)
    assert sizes == (
        "They see images of different sizes (shorter and longer side, at most): one with 64 × 104; two with 96 × 156."
    )
    assert (
        lengths == "They were trained for different lengths: one with 1 epoch, 5 steps; two with 1.6 epochs, 8 steps."
    )
    config = tmp_path / "two" / "config.json"
    config.write_text(config.read_text().replace(f'"data": "{digits_folder}"', '"data": "elsewhere"'))
    assert fairness_notes(contestants) == [sizes, lengths]  # the same annotations, copied to another place
    config.write_text(config.read_text().replace(dataset.annotation_digest, "others"))
    assert (
        f"They learned from different training splits: one with 5 images of {digits_folder}; two with 5 images of elsewhere."
        in fairness_notes(contestants)
    )
    (tmp_path / "two" / "log.csv").write_text("epoch,step\n1,?\n")  # damaged
    assert origin_of(contestants[1]).length == ""


def test_a_run_of_another_variant_in_the_folder_of_a_checkpoint_tells_nothing(
    made: Comparison, digits_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    create(
        resolve(TrainingOptions("dino-compact", str(digits_folder), output=str(folder))),
        validation_of(str(digits_folder), {}),
    )
    contestant = replace(made.contestants[0], checkpoint=str(folder / "best.safetensors"))
    assert origin_of(contestant).options is None
    assert origin_of(contestant).variant == "detr-compact"


def test_what_is_not_alike_is_said(digits_folder: Path, tmp_path: Path) -> None:
    dataset = validation_of(str(digits_folder), {})
    names = ("detr-compact", "conditional-detr-compact")
    figures = []
    for name, side in zip(names, (64, 96), strict=True):
        folder = tmp_path / name
        create(resolve(TrainingOptions(name, str(digits_folder), output=str(folder), short_side=side)), dataset)
        run = Run(Contestant(name, variant=name), 0, folder)
        figures.append(ContestantFigures(name, name, None, (Training(run, Outcome(), []),)))
    (note,) = fairness_notes(figures)
    assert note == (
        "They see images of different sizes (shorter and longer side, at most): detr-compact with 64 × 104; conditional-detr-compact with "
        "96 × 156."
    )
    assert fairness_notes(figures[:1]) == []
    config = tmp_path / names[1] / "config.json"
    old = config.read_text()
    config.write_text(old.replace('"images": 5,', '"images": 7,').replace(dataset.annotation_digest, "others"))
    assert fairness_notes(figures)[1] == (
        "They learned from different training splits: detr-compact with 5 images; conditional-detr-compact with 7 images."
    )


def test_corrected_annotations_are_said(digits_folder: Path, tmp_path: Path) -> None:
    dataset = validation_of(str(digits_folder), {})
    figures = []
    for seed, moved in enumerate((0.0, 1.0)):
        folder = tmp_path / f"detr-compact-seed{seed}"
        options = resolve(TrainingOptions("detr-compact", str(digits_folder), output=str(folder)))
        create(options, replace(dataset, boxes_xyxy=dataset.boxes_xyxy + moved))
        run = Run(Contestant("detr-compact", variant="detr-compact"), seed, folder)
        figures.append(Training(run, Outcome(), []))
    (note,) = fairness_notes([ContestantFigures("detr-compact", "detr-compact", None, tuple(figures))])
    assert re.fullmatch(
        "They learned from different annotations: detr-compact-seed0 with version [0-9a-f]{16}; detr-compact-seed1 with "
        r"version [0-9a-f]{16}\.",
        note,
    )
