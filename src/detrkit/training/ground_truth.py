"""Looks at the splits of a run before it starts: whether there is anything to learn, and anything to evaluate on."""

from __future__ import annotations

from rich.console import Console

from detrkit.data import DetectionDataset, NoImagesError, available_splits, open_dataset, plain_split
from detrkit.data.classes import unite_classes
from detrkit.errors import DataError
from detrkit.training.training_options import TrainingOptions

_WITHOUT_EVALUATION = "so nothing is evaluated and the lowest loss counts as best."


def open_splits(options: TrainingOptions, console: Console) -> tuple[DetectionDataset, DetectionDataset | None]:
    """The training data, and the validation data if there is any ground truth to compare with; says on the console what they are.

    Raises:
        DataError: a split cannot be used, the training split has no object to learn from, or the two have no class in common.
    """
    training = _opened(options, options.train_split)
    _describe(training, console)
    check_something_to_learn(training)
    validation = _validation(options, console)
    if validation is None:
        return training, None
    _describe(validation, console)
    lack = what_lacks(validation)
    if lack is not None:
        console.print(f"Note: {validation.name} {lack}, {_WITHOUT_EVALUATION}")
        return training, None
    training, notes = unite_classes(training, validation)
    for note in notes:
        console.print(f"Note: {note}")
    return training, validation


def check_something_to_learn(training: DetectionDataset) -> None:
    """Refuses a split whose images have no object that a detector could learn from.

    Raises:
        DataError: there are no objects, or all are crowd regions.
    """
    lack = what_lacks(training)
    if lack is not None:
        raise DataError(
            f"{training.name} {lack}, so there is nothing to learn: check its annotations, or train on another split."
        )


def what_lacks(dataset: DetectionDataset) -> str | None:
    """Why a split has no ground truth, as the end of a sentence; None if it has some."""
    if not len(dataset.labels):
        return f"has no objects in its {len(dataset)} images"
    if dataset.crowd.all():
        return f"has only crowd regions, {len(dataset.labels)} in {len(dataset)} images"
    return None


def _validation(options: TrainingOptions, console: Console) -> DetectionDataset | None:
    """The validation split; None, with a note, if there is none or it has no images, as exports write where nothing was assigned to it.

    Raises:
        DataError: it cannot be used, or another split than `val` was asked for, which must exist.
    """
    available = available_splits(options.data)
    is_there = "val" in map(plain_split, available)
    try:
        if options.val_split != "val" or available:
            return _opened(options, options.val_split)
    except NoImagesError as problem:
        reason = "" if is_there else f" ({str(problem).rstrip('.')})"
        console.print(f"Note: {options.data} {options.val_split} has no images{reason}, {_WITHOUT_EVALUATION}")
        return None
    except DataError:
        if options.val_split != "val" or is_there:
            raise
    console.print(f"Note: {options.data} has no split '{options.val_split}', {_WITHOUT_EVALUATION}")
    return None


def _opened(options: TrainingOptions, split: str) -> DetectionDataset:
    return open_dataset(options.data, split, orientation=options.orientation, stretch_16bit=options.stretch_16bit)


def _describe(dataset: DetectionDataset, console: Console) -> None:
    console.print(dataset.description())
    for note in dataset.notes:
        console.print(f"Note: {note}")
