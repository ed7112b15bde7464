"""All checks in their order: of one split, of all splits together, and of what decoding the pictures showed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from detrkit.data.inspection import boxes, classes, copies, objects, pictures
from detrkit.data.inspection.finding import Finding, Split
from detrkit.data.inspection.pictures import Look

OF_A_SPLIT: tuple[Callable[[Split], list[Finding]], ...] = (
    classes.without_ground_truth,
    classes.similar_names,
    classes.rare_classes,
    boxes.thin_boxes,
    boxes.boxes_over_the_edge,
    boxes.repeated_boxes,
    objects.under_annotated,
    objects.too_many_for_figures,
    objects.images_without_objects,
    objects.crowd_regions,
    pictures.long_pictures,
)
OF_ALL_SPLITS: tuple[Callable[[Sequence[Split]], list[Finding]], ...] = (
    classes.unused_classes,
    classes.classes_not_in_training,
)
OF_PICTURES: tuple[Callable[[Split, Look], list[Finding]], ...] = (
    pictures.damaged_pictures,
    pictures.blank_pictures,
    pictures.cut_off_pictures,
)


def quick_findings(
    splits: Sequence[Split], queries: int, whose: str, fitting: Callable[[int], int] | None = None
) -> list[Finding]:
    """What headers and annotations show, without decoding a picture.

    Args:
        splits: all that were opened.
        queries: number of objects that a model can report in an image.
        whose: what has these queries, for messages.
        fitting: from the most objects of an image to a number of queries that this model can have; by default the next multiple of 50.
    """
    found = [each for split in splits for check in OF_A_SPLIT for each in check(split)]
    found += [each for split in splits for each in objects.too_many_for_queries(split, queries, whose, fitting)]
    return found + [each for check in OF_ALL_SPLITS for each in check(splits)]


def picture_findings(splits: Sequence[Split], looks: Sequence[Look]) -> list[Finding]:
    """What decoding the pictures showed.

    Args:
        splits: all that were opened.
        looks: one for each of them.
    """
    found = [
        each for split, look in zip(splits, looks, strict=True) for check in OF_PICTURES for each in check(split, look)
    ]
    return found + copies.copies_found(splits, looks)
