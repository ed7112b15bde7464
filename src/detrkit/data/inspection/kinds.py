"""Everything that an inspection can find: how bad it is, what it means, and what helps.

`docs/inspect.md` has this as a table, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """A kind of findings.

    Attributes:
        severity: of all its findings.
        meaning: one sentence.
        remedy: one sentence; words in braces are replaced by values.
    """

    severity: Severity
    meaning: str
    remedy: str


KINDS: dict[str, Kind] = {
    # Training refuses it or would be spoilt.
    "unreadable": Kind(
        "error",
        "The split cannot be read: a file is missing or damaged, or an annotation makes no sense. Exit code 2.",
        "Do what the message says; everything else in this split is unknown until then.",
    ),
    "nothing-to-learn": Kind(
        "error",
        "The training split has no images, no objects, or only crowd regions.",
        "Check its annotations, or train on another split with --train-split.",
    ),
    "no-common-classes": Kind(
        "error",
        "A split has no class of the training split, so nothing that is learned can be found in it.",
        "Give the same classes the same names in both.",
    ),
    "damaged-pictures": Kind(
        "error",
        "A picture has a sound beginning and end, but cannot be decoded. Training would stop when it comes to it.",
        "Copy the pictures again from their source, or remove them and their entries.",
    ),
    "round-trip": Kind(
        "error",
        "Perfect detections, made of the annotations themselves, do not reach AP 1: the figures of every model would be too low.",
        "Draw the boxes within their pictures; if the message names another reason, correct that.",
    ),
    "damaged-masks": Kind(
        "error",
        "A file of masks cannot be decoded. Training would stop when it comes to it.",
        "Do what the message says, or copy the masks again from their source.",
    ),
    "segments-differ": Kind(
        "error",
        "An id is only in the pixels of a panoptic PNG file, or only in the list of segments.",
        "Add or remove the segment, or paint the pixels black that belong to nothing.",
    ),
    # Training runs, but results are worse or figures wrong.
    "split-without-images": Kind(
        "warning",
        "The data set names the split, but it has no images.",
        "Add images, or remove the split's empty entry.",
    ),
    "nothing-to-evaluate": Kind(
        "warning",
        "A split for evaluation has no objects, or only crowd regions.",
        "Annotate it, or evaluate on another split with --val-split.",
    ),
    "boxes-without-area": Kind(
        "warning",
        "Boxes have no width or no height, often by a click without dragging. Reading leaves them out.",
        "Draw them again or delete them: the object they stood for counts as background now.",
    ),
    "thin-boxes": Kind(
        "warning",
        "A box is less than one pixel wide or high.",
        "Look whether these are clicks by mistake or sizes in another unit, and draw them again.",
    ),
    "boxes-off-picture": Kind(
        "warning",
        "A box lies wholly outside its picture. Training and evaluation leave it out.",
        "Delete these boxes, or correct them if the picture was cropped or turned after annotation.",
    ),
    "duplicate-boxes": Kind(
        "warning",
        "The same box is there twice with the same class. One-to-one matching then teaches to report an object twice.",
        "Delete one box of each pair.",
    ),
    "near-duplicate-boxes": Kind(
        "warning",
        "Two boxes of a class overlap with an IoU above 0.85: usually one object that was annotated twice.",
        "Look at these pairs, and delete one box where both mean the same object.",
    ),
    "two-class-boxes": Kind(
        "warning",
        "The same box (IoU above 0.95) is there with two classes.",
        "Keep the right class, or merge classes that mean the same.",
    ),
    "segments-unlike-pixels": Kind(
        "warning",
        "The list gives a segment another box or area than its pixels have.",
        "Export the list again; boxes end after the last pixel, and areas are numbers of pixels.",
    ),
    "masks-without-pixels": Kind(
        "warning",
        "An object's outline is so small or thin that it covers no pixel. Training with masks leaves the object out.",
        "Draw these outlines again, or delete them.",
    ),
    "masks-beside-boxes": Kind(
        "warning",
        "An object's mask is not where its box is (IoU below 0.5), so that one of the two belongs to another object.",
        "Look at these objects, and export boxes and outlines together again.",
    ),
    "under-annotated": Kind(
        "warning",
        "A class is in nearly all images, many times in each, but not or hardly in these: objects were probably not annotated.",
        "Look at these images, annotate the class in them, or leave them out.",
    ),
    "more-objects-than-queries": Kind(
        "warning",
        "An image has more objects than the model has queries, each of which can report one object.",
        "Train with more queries (--settings.queries {queries}), or cut the pictures into tiles.",
    ),
    "same-picture-in-splits": Kind(
        "warning",
        "A picture is in two splits, perhaps with another name, size or compression: figures on it are too good.",
        "Keep each picture in one split only.",
    ),
    "same-picture-twice": Kind(
        "warning",
        "A picture is there more than once in a split, perhaps with another name, size or compression.",
        "Keep one of them; if their annotations differ, the right one.",
    ),
    "blank-pictures": Kind(
        "warning",
        "A picture has one colour everywhere.",
        "Copy the pictures again from their source, or remove them and their entries.",
    ),
    "cut-off-pictures": Kind(
        "warning",
        "One side of a picture, but not of most pictures in its split, is the plain grey that decoders put where data are missing: a copy was "
        "interrupted, or the picture was padded with this grey.",
        "Look at the pictures, and copy those that lack a part again from their source; padding may stay.",
    ),
    "class-not-in-training": Kind(
        "warning",
        "A class has objects in another split, but none in the training split, and cannot be learned.",
        "Move some of its images to the training split, or take the class out.",
    ),
    "similar-class-names": Kind(
        "warning",
        "Two classes of a split have the same name but for case, blanks, '_' or '-'.",
        "Merge them if they mean the same, otherwise rename one.",
    ),
    # Worth knowing.
    "boxes-over-the-edge": Kind(
        "note",
        "Boxes reach beyond the picture. Training clips them, evaluation takes them as annotated.",
        "Clip them to the picture if their objects end there.",
    ),
    "images-without-objects": Kind(
        "note",
        "Images without any object are learned from as background.",
        "Make sure that nothing in them should have been annotated.",
    ),
    "crowd-regions": Kind(
        "note",
        "Regions of many objects (COCO's iscrowd, Pascal VOC's difficult) are not learned from; evaluation ignores detections in them.",
        "Annotate single objects where they should be found.",
    ),
    "more-objects-than-detections": Kind(
        "note",
        "An image has more than 100 objects. COCO's evaluation takes the 100 best detections of each class in an image; `detrkit evaluate` keeps "
        "the 100 best of all classes together, so some objects cannot be found.",
        "Evaluate with a higher --max-detections, or cut the pictures into tiles.",
    ),
    "unused-classes": Kind(
        "note",
        "A class has no object in any split that was inspected.",
        "Remove the class from the list, or annotate it.",
    ),
    "rare-classes": Kind(
        "note",
        "A class has fewer than 10 objects in the training split, too few to learn it well.",
        "Add images of these classes, or merge them with others.",
    ),
    "long-pictures": Kind(
        "note",
        "A picture is more than four times as long as it is wide, so it is made very small to fit the limit of its longer side.",
        "Cut such pictures into pieces.",
    ),
    "changed-in-reading": Kind(
        "note",
        "Something was read in another way than it is written, or left out.",
        "Correct it in the files if the message is not what you expect.",
    ),
    "round-trip-left-out": Kind(
        "note",
        "Images with more than 100 objects of one class are not in the round trip, since only 100 detections of a class count in an image.",
        "Cut the pictures into tiles if their annotations should be checked in this way, too.",
    ),
    "sheet-left-out": Kind(
        "note",
        "The pictures that were asked for (--picture, --augmented) were not written, since a picture cannot be read or there is none.",
        "Do what the message says, and ask again.",
    ),
    "split-left-out": Kind(
        "note",
        "`trainval` is `train` and `val` together, so it is not inspected again.",
        "Ask for it with --split {split}.",
    ),
}
