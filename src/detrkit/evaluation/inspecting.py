"""Inspects a data set as a whole: figures, all checks, every picture decoded, and the round trip of its ground truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from detrkit.cards import PolicyName
from detrkit.data.coco_frames import Orientation
from detrkit.data.dataset import DetectionDataset
from detrkit.data.inspection import (
    Finding,
    Inspection,
    Look,
    Split,
    files_in_two_splits,
    finding,
    in_order,
    look_at_pictures,
    mask_findings,
    open_splits,
    picture_findings,
    quick_findings,
    statistics_of,
)
from detrkit.data.opening import Masks
from detrkit.errors import ConfigurationError, DataError, OptionError, closest
from detrkit.files import check_folder, expanded, prepare_folder, write_text
from detrkit.models.listing import check_name, listed_variants
from detrkit.prediction.results import check_picture_file, save_image
from detrkit.progress import watched

USUAL_QUERIES = 100
PAGE = "index.html"
_DRAWINGS = 4


def inspect_data(
    path: str | Path,
    splits: str | Sequence[str] = (),
    *,
    quick: bool = False,
    variant: str | None = None,
    queries: int | None = None,
    picture: str | Path | None = None,
    orientation: Orientation = "auto",
    stretch_16bit: bool = False,
    masks: Masks | None = None,
    augmentation: PolicyName | None = None,
    augmented: int | None = None,
    output: str | Path = "augmented",
    progress: bool = False,
) -> Inspection:
    """Looks for everything in a data set that would stop or spoil training and evaluation.

    Args:
        path: folder or annotation file of a data set, or "digits".
        splits: names of splits; empty means all.
        quick: whether to look at headers and annotations only, without decoding pictures and without the round trip.
        variant: name in the catalog; its queries and image sizes are used.
        queries: number of queries to compare the objects of an image with; by default the variant's, or 100, DETR's number.
        picture: file for pictures with their boxes as annotated and as training gets them.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown", as for `open_dataset`.
        stretch_16bit: whether 16-bit grey is stretched to the whole range, as for `open_dataset`.
        masks: "instances" or "panoptic", as for `open_dataset`; None looks at boxes only.
        augmentation: name of the policy that pictures of training show; by default that of the variant's recipe.
        augmented: number of pictures that are drawn step by step, as training varies them; by default four if a policy is named, otherwise none.
        output: folder for these drawings, and for a page that shows them below the inspection.
        progress: whether to show on the error stream how far it is.

    Raises:
        ConfigurationError: an unknown variant or policy, queries below 1, or fewer drawings than 1.
        DataError: there is no data set at this path, or it has no such split. A split that cannot be read is a finding.
        OutputError: a picture cannot be written.
    """
    number, whose = _queries(variant, queries)
    if picture is not None:
        check_picture_file(picture)
    drawn = _number_of_drawings(augmentation, augmented)
    folder = expanded(output)
    if drawn:
        check_folder(folder)
    asked = [splits] if isinstance(splits, str) else list(splits)
    opened = open_splits(path, asked, orientation=orientation, stretch_16bit=stretch_16bit, masks=masks)
    fitting = None if variant is None else _fitting(variant)
    findings = [*opened.findings, *quick_findings(opened.splits, number, whose, fitting)]
    round_trips: dict[str, float | None] = {}
    looks: list[Look] = []
    if quick:
        findings += files_in_two_splits(opened.splits)
    else:
        looks = _looks(opened.splits, progress)
        findings += picture_findings(opened.splits, looks)
        findings += mask_findings(opened.splits)
        round_trips, more = _round_trips(opened.splits)
        findings += more
    pictures: list[Path] = []
    if picture is not None:
        file = Path(picture)
        findings += _drawn(partial(_save_sheet, file, variant, augmentation), file, opened.splits, looks)
    if drawn:
        draw = partial(_draw_steps, folder, variant, augmentation, drawn, pictures)
        findings += _drawn(draw, folder, opened.splits, looks)
    inspection = Inspection(
        path=str(path),
        quick=quick,
        statistics=tuple(map(statistics_of, opened.splits)),
        findings=in_order(findings),
        round_trips=round_trips,
        decoded=sum(map(len, looks)),
        seconds=sum(look.seconds for look in looks),
        pictures=tuple(map(str, pictures)),
    )
    if pictures:
        write_text(folder / PAGE, inspection.page())
    return inspection


def _queries(variant: str | None, queries: int | None) -> tuple[int, str]:
    """A number of queries, and what has them."""
    if queries is not None and queries < 1:
        raise ConfigurationError(f"queries must be at least 1, not {queries}")
    if variant is not None:
        check_name(variant)
    own = None if variant is None else listed_variants()[variant].queries
    if queries is not None:
        return queries, variant or "the model"
    return (USUAL_QUERIES, "DETR") if own is None else (own, str(variant))


def _fitting(variant: str) -> Callable[[int], int]:
    """From a number of objects to the number of queries that suits the variant."""
    from detrkit.models.catalog import find_variant, fitting_queries  # without a variant, nothing here needs PyTorch

    return partial(fitting_queries, find_variant(variant).config)


def _looks(splits: Sequence[Split], progress: bool) -> list[Look]:
    with watched(progress) as follow:
        return [
            look_at_pictures(
                split, partial(follow, what=f"decoding {split.name}", unit="picture", total=len(split.dataset))
            )
            for split in splits
        ]


def _round_trips(splits: Sequence[Split]) -> tuple[dict[str, float | None], list[Finding]]:
    from detrkit.evaluation.round_trip import round_trip, round_trip_findings

    figures: dict[str, float | None] = {}
    findings: list[Finding] = []
    for split in splits:
        outcome = round_trip(split)
        figures[split.name] = outcome.ap
        findings += round_trip_findings(split, outcome)
    return figures, findings


def _number_of_drawings(augmentation: PolicyName | None, augmented: int | None) -> int:
    """How many pictures are drawn step by step.

    Raises:
        ConfigurationError: an unknown policy, or a number below 1.
    """
    if augmentation is not None and augmentation not in get_args(PolicyName):
        raise OptionError(
            f"there is no augmentation '{augmentation}': {closest(augmentation, get_args(PolicyName))}", "augmentation"
        )
    if augmented is not None and augmented < 1:
        raise OptionError(f"augmented must be at least 1, not {augmented}", "augmented")
    return augmented or (_DRAWINGS if augmentation is not None else 0)


def _save_sheet(file: Path, variant: str | None, policy: PolicyName | None, dataset: DetectionDataset) -> None:
    from detrkit.evaluation.augmented import before_and_after

    save_image(file, before_and_after(dataset, variant, policy=policy))


def _draw_steps(
    folder: Path,
    variant: str | None,
    policy: PolicyName | None,
    count: int,
    files: list[Path],
    dataset: DetectionDataset,
) -> None:
    """Adds the files that were written to `files`."""
    from detrkit.evaluation.augmented import draw_steps

    files += draw_steps(dataset, prepare_folder(folder), variant, policy=policy, count=count)


def _drawn(
    draw: Callable[[DetectionDataset], None], file: Path, splits: Sequence[Split], looks: Sequence[Look]
) -> list[Finding]:
    """Draws pictures of the training split, or of the first that can be drawn; a note if there is none.

    Args:
        draw: writes pictures of a data set.
        file: what it writes, for the note.
        splits: those that could be read.
        looks: what decoding them showed, in the same order; empty after a quick inspection.
    """
    reason = "There is no picture to show"
    for split in sorted(splits, key=lambda each: not each.for_training):
        damaged = looks[splits.index(split)].problems if looks else {}
        usable = [index for index in range(len(split.dataset)) if index not in damaged]
        try:
            if usable:
                draw(split.dataset.subset(usable))
                return []
        except DataError as problem:
            reason = str(problem).rstrip(".")
    names = ", ".join(split.name for split in splits)
    return [finding("sheet-left-out", names, f"{reason}, so {file} was not written.", files=[str(file)])]
