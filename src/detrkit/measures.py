"""What a run measures: one name for each number, the same in the terminal, in log.csv, in curves, in reports and in the documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A number that a run measures in every epoch.

    Attributes:
        name: what people read.
        meaning: what it measures.
    """

    name: str
    meaning: str

    @property
    def column(self) -> str:
        """Its name in files: the same with underscores."""
        return self.name.replace(" ", "_")


LOSS = Measure(
    "loss",
    "weighted sum over all decoder layers, and over proposals and noised objects where the model has them: what training minimises",
)
CLASS_LOSS = Measure("class loss", "how unsure the classes are, in the last layer")
DISTANCE_LOSS = Measure(
    "distance loss",
    "L1 distance of matched boxes in the last layer, in shares of the image, summed over four coordinates",
)
OVERLAP_LOSS = Measure(
    "overlap loss", "1 - generalised IoU of matched boxes in the last layer: 0 is perfect, about 1 is beside it"
)
MASK_LOSS = Measure("mask loss", "focal loss of the masks of matched queries, a mean over pixels and objects")
DICE_LOSS = Measure(
    "dice loss", "1 - Dice overlap of the masks of matched queries with their objects: 0 is perfect, 1 is beside it"
)
MATCHED_CLASS_ACCURACY = Measure(
    "matched class accuracy",
    "share of the objects in training images whose matched query gives their class the highest score of all classes. Other queries, boxes and "
    "the height of the score do not count, so it may be 100% where AP, which counts them, is low",
)
LEARNING_RATE = Measure("learning rate", "of everything except the backbone, after the epoch's last step")
SECONDS = Measure("seconds", "that the epoch's steps took, without its evaluation")
IMAGES_PER_SECOND = Measure("images per second", "in the epoch's steps")
AP = Measure("AP", "COCO's mean AP over IoU 0.50 to 0.95, on the validation split")
MASK_AP = Measure("mask AP", "the same of masks, where the model and the data have some")
PQ = Measure("PQ", "panoptic quality of all classes on the validation split, of queries from the model's threshold on")
REPEATED_SHARE = Measure(
    "repeated share",
    "of the detections from the best thresholds on, those that repeat a better one of their class (IoU above 0.7), on the validation split",
)
MATCHING_INSTABILITY = Measure(
    "matching instability",
    "of the objects in some training images, those that are matched to another query than after the epoch before; a mean over decoder layers",
)
ATTENTION_SPARSITY = Measure(
    "attention sparsity",
    "of cross-attention in some training images, or of the encoder's attention in a model without a decoder: the mean negative entropy of its "
    "weights, 0 where a query looks at a single key, -log S where it looks at S keys alike. In deformable attention the sampled points are the "
    "keys. A mean over decoder layers",
)
ATTENTION_DISTANCE = Measure(
    "attention distance",
    "in some training images, how far the centre of mass of a matched query's cross-attention is from the centre of its object, in halves of "
    "the object's diagonal; the median of the objects, a mean over decoder layers",
)
REFERENCE_DISTANCE = Measure(
    "reference distance",
    "the same of the references that a layer's queries start from",
)
USED_QUERIES = Measure(
    "used queries",
    "that have an object, or one of the best detections, in any of some training images and in any decoder layer. As many detections of an "
    "image count as it has objects",
)
REPEATED_DETECTIONS = Measure(
    "repeated detections",
    "of the best detections of some training images, as many as each has objects, those that repeat a better one of their class (IoU above "
    "0.7); a mean over decoder layers",
)
THRESHOLD = Measure("threshold", "score from which a detection counts; by default the one with the best F1")

# Those that a log also has of every decoder layer.
LAYERED = (
    MATCHING_INSTABILITY,
    ATTENTION_SPARSITY,
    ATTENTION_DISTANCE,
    REFERENCE_DISTANCE,
    REPEATED_DETECTIONS,
    USED_QUERIES,
)
MEASURES = (
    Measure("epoch", "passes over the training images"),
    Measure("step", "optimizer steps"),
    LOSS,
    CLASS_LOSS,
    DISTANCE_LOSS,
    OVERLAP_LOSS,
    MASK_LOSS,
    DICE_LOSS,
    MATCHED_CLASS_ACCURACY,
    LEARNING_RATE,
    SECONDS,
    IMAGES_PER_SECOND,
    AP,
    MASK_AP,
    PQ,
    REPEATED_SHARE,
    *LAYERED,
)
# Names of columns in the logs of older versions.
FORMER_COLUMNS = {"right_class": MATCHED_CLASS_ACCURACY.column, "lr": LEARNING_RATE.column}

_NAMES = {measure.column: measure.name for measure in MEASURES}


def layer_column(measure: Measure, layer: int) -> str:
    """The column of a measure of one layer, counted from 0."""
    return f"{measure.column}_{layer}"


def layer_of(column: str, measure: Measure) -> int | None:
    """The layer that a column has a measure of; None where it is no such column."""
    name, _, layer = column.rpartition("_")
    return int(layer) if name == measure.column and layer.isdecimal() else None


def name_of(column: str) -> str:
    """What people read for a column of a log; the column itself where it is none of `MEASURES`."""
    for measure in LAYERED:
        if (layer := layer_of(column, measure)) is not None:
            return f"{measure.name} {layer}"
    return _NAMES.get(column, column)
