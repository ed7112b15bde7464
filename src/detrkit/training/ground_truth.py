"""Looks at the splits of a run before it starts: whether there is anything to learn, and anything to evaluate on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from rich.console import Console

from detrkit.data import DetectionDataset, NoImagesError, available_splits, open_dataset, plain_split
from detrkit.data.classes import same_classes, unite_classes
from detrkit.data.inspection import Finding, Split, files_in_two_splits, in_order, quick_findings, what_lacks
from detrkit.data.opening import Masks, kind_of_masks
from detrkit.errors import DataError
from detrkit.models.catalog import changed_config, find_variant, fitting_queries, has_masks
from detrkit.training.training_options import TrainingOptions

_WITHOUT_EVALUATION = "so nothing is evaluated and the lowest loss counts as best."


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is evaluated on.

    Attributes:
        training: with the classes of both splits.
        validation: None if there is no ground truth to compare with.
        findings: what annotations and headers show about both, worst first.
    """

    training: DetectionDataset
    validation: DetectionDataset | None
    findings: tuple[Finding, ...] = ()


def open_run_data(options: TrainingOptions, console: Console) -> RunData:
    """Opens the splits of a run and inspects them quickly; says on the console what they are and what may be wrong with them.

    Raises:
        DataError: a split cannot be used, the training split has no object to learn from, the two have no class in common, or something
            would spoil the run.
        ConfigurationError: an unknown variant, or a setting that it does not have.
    """
    training = _opened(options, options.train_split)
    _describe(training, console)
    check_something_to_learn(training)
    validation = _validation(options, console)
    if validation is not None:
        _describe(validation, console)
        lack = what_lacks(validation)
        if lack is not None:
            console.print(f"Note: {validation.name} {lack}, {_WITHOUT_EVALUATION}")
            validation = None
    notes: list[str] = []
    with_all_classes = training
    if validation is not None:
        with_all_classes, notes = unite_classes(training, validation)
    for note in notes:
        console.print(f"Note: {note}")
    splits = _splits(options, training, validation)
    findings = data_findings(options, splits)
    _say(options, splits, findings, console)
    return RunData(with_all_classes, validation, findings)


def _splits(
    options: TrainingOptions, training: DetectionDataset, validation: DetectionDataset | None
) -> tuple[Split, ...]:
    splits = [Split(options.train_split, training, for_training=True)]
    if validation is not None and options.val_split != options.train_split:
        splits.append(Split(options.val_split, validation))
    return tuple(splits)


def data_findings(options: TrainingOptions, splits: Sequence[Split]) -> tuple[Finding, ...]:
    """What annotations and headers show about the data of a run, worst first; `detrkit inspect` looks deeper.

    Args:
        options: its variant and settings say how many queries the model has.
        splits: of the run.

    Raises:
        ConfigurationError: an unknown variant, or a setting that it does not have.
    """
    config = changed_config(find_variant(options.variant).config, dict(options.settings))
    found = quick_findings(splits, config.queries, options.variant, partial(fitting_queries, config))
    return in_order([*found, *files_in_two_splits(splits)])


def _say(options: TrainingOptions, splits: Sequence[Split], findings: Sequence[Finding], console: Console) -> None:
    """Prints the warnings, one line each, and the note about classes that nothing can be learned of.

    Raises:
        DataError: something would stop or spoil the run.
    """
    for each in findings:
        if each.severity == "error":
            raise DataError(f"{options.data}: {each.message} {each.remedy}")
    for each in findings:
        if each.kind == "unused-classes":
            console.print(f"Note: {each.message} Nothing can be learned of them.")
    warnings = [each for each in findings if each.severity == "warning" and not _is_said(each, splits)]
    for each in warnings:
        console.print(f"Warning: {each.split}: {each.message}")
    if warnings:
        console.print(f"What to do about it: detrkit inspect {options.data}", soft_wrap=True)


def _is_said(found: Finding, splits: Sequence[Split]) -> bool:
    """Whether the note about classes that the training split does not list has said this."""
    if found.kind != "class-not-in-training":
        return False
    training, validation = (split.dataset.categories for split in splits)
    return found.count <= len(validation) - len(same_classes(training, validation))


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


def _validation(options: TrainingOptions, console: Console) -> DetectionDataset | None:
    """The validation split; None, with a note, if there is none or it has no images, as exports write where nothing was assigned to it.

    Raises:
        DataError: it cannot be used, or another split than `val` was asked for, which must exist.
    """
    available = available_splits(options.data, masks_of(options))
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
    dataset = open_dataset(
        options.data,
        split,
        orientation=options.orientation,
        stretch_16bit=options.stretch_16bit,
        masks=masks_of(options),
    )
    return dataset if has_masks(options.variant) else replace(dataset, masks=None)


@contextmanager
def not_said_again(data: RunData, options: TrainingOptions) -> Iterator[None]:
    """Silences the matcher's warning about images with more objects than queries where `open_run_data` has named them."""
    said = any(each.kind == "more-objects-than-queries" and each.split == options.train_split for each in data.findings)
    with warnings.catch_warnings():
        if said:
            warnings.filterwarnings("ignore", "an image has .* objects but the model only")
        yield


def with_kind_of_masks(options: TrainingOptions) -> TrainingOptions:
    """The options as they are shown: with the kind of masks that the data have, where nobody chose one. A run keeps what was given."""
    try:
        return replace(options, masks=masks_of(options))
    except DataError:  # of an old run, whose data are gone
        return options


def masks_of(options: TrainingOptions) -> Masks | None:
    """The kind of masks whose objects a run learns; None for those of the data set's boxes."""
    if not has_masks(options.variant):
        return options.masks
    return options.masks or kind_of_masks(options.data)


def _describe(dataset: DetectionDataset, console: Console) -> None:
    console.print(dataset.description())
    for note in dataset.notes:
        console.print(f"Note: {note}")
