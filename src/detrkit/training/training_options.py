"""Everything that can be set for a training run, in Python and on the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from detrkit.cards import PolicyName

# What applies where an option is not given and has no fixed default.
UNLESS_GIVEN: dict[str, str] = {
    **dict.fromkeys(
        ("epochs", "batch_size", "lr", "backbone_lr", "weight_decay", "gradient_clip", "schedule", "drop_after"),
        "the recipe's",
    ),
    "warmup_steps": "the recipe's",
    "augmentation": "the recipe's",
    **dict.fromkeys(("flip", "vertical_flip", "crop", "multi_scale"), "the policy's"),
    "steps": "as many as the epochs have",
    "accumulate": "as few as fit into memory",
    "short_side": "the variant's",
    "long_side": "in proportion to the shorter side",
    "weights": "coco where the authors' file can be downloaded or is in the cache, otherwise backbone; none for compact variants, and where a part is given",
    "masks": "panoptic where the data set has such files, otherwise instances",
    "output": "a new folder under runs/",
    "workers": "0 on a CPU, otherwise up to 8 for each process",
}


@dataclass(frozen=True)
class TrainingOptions:
    """The options of a run. None stands for the value in the variant's recipe, or for one that suits the machine.

    `detrkit train` has an option for each of these fields, and its help shows their descriptions.

    Attributes:
        variant: name of what to train, such as detr-r50; `detrkit models` lists them all.
        data: folder or annotation file of a data set, or "digits" for the built-in one.
        output: folder of the run; a new one under runs/ unless given.
        epochs: passes over the training images.
        steps: optimizer steps; takes precedence over the number of epochs.
        minutes: time for training and its evaluations instead of a number of epochs: the speed is measured first, then the number of steps is fixed.
        patience: number of evaluations in a row without a better figure after which training stops early; without it, it goes on to its end.
        batch_size: images per optimizer step; several processes share them.
        accumulate: number of pieces that a batch is split into to save memory; they are processed one after the other.
        lr: learning rate of everything except the backbone; with TSP's recipe that of the encoder, which SGD's rate for all else follows.
        backbone_lr: learning rate of the backbone.
        scale_lr: whether the recipe's learning rates follow the batch size, with its square root.
        layer_decay: factor between the learning rates of a block of the backbone and the block after it; the last one has that of the backbone.
        rates: factors of the learning rates of parts of the model, by the components of parameter names, such as offsets=0.1,backbone.layer1=0.
        weight_decay: weight decay of AdamW.
        gradient_clip: largest norm of the gradient.
        schedule: "step" drops the learning rates once, to a tenth; "cosine" lets them fall to zero; "flat-cosine" does so after a flat part.
        drop_after: share of the run after which "step" drops the learning rates, and "flat-cosine" lets them fall. Where the recipe drops them
            twice (TSP), another share is that of the only drop.
        warmup_steps: steps over which the learning rates rise from zero.
        ema: decay of an average of the weights over the steps, such as 0.9998; it is the average that is then evaluated and saved.
        repeat_rare: share of the images below which a class is rare: images that show it come several times in an epoch.
        short_side: largest shorter side of an image in pixels, in training and evaluation.
        long_side: limit of the longer side in pixels.
        augmentation: policy by which training images vary: "detr" as in the paper; "sizes" mirrors and resizes alone; "light" for small sets;
            "strong" with mosaics, pasted objects, large changes of scale and colours; "none". The four options that follow change it.
        flip: probability of mirroring an image; 0 where left and right matter.
        vertical_flip: probability of flipping an image upside down, for images in which up and down do not matter.
        crop: whether half of the images are cropped, as in DETR.
        multi_scale: whether each image is resized to one of several sizes instead of the largest.
        weights: what the model starts from: "coco" (what the authors trained on COCO), "backbone" (ImageNet weights of the backbone), "none"
            (random numbers), or the file or run folder of a trained detector of the same paper, also for other classes. What is published
            is downloaded into a cache.
        backbone_weights: file with pretrained weights of the backbone, with torchvision's names, or "imagenet" for torchvision's, which are downloaded.
        queries_from: file of a trained detector of the same paper, whose queries the new one starts with (and keeps, with the setting
            learn_queries=False).
        detector_from: file or run folder of a trained detector of the same paper and classes, for a model with masks: it stays as it is,
            and only the mask head is trained.
        supervision: more to learn from than the paper has: "denoising" (noised copies of the objects), "one-to-many" (more queries, several
            for each object) or "groups" (copies of all queries), with settings such as one-to-many,repeats=4. It costs time in training
            and nothing afterwards.
        settings: settings of the model that differ from the variant's, such as queries=300 (--settings.queries 300).
        memory_probe: whether the largest step that can come is tried before the first one, so that a run for which there is not enough memory ends
            at once; it changes nothing that is learned.
        precision: float32, or bf16 for mixed precision.
        device: auto, cpu, cuda, cuda:1 or mps.
        devices: devices to train on, each with a process of its own; also of the CPU. Under torchrun or srun as many as they start.
        nodes: machines that train together, each with as many devices; needs MASTER_ADDR, MASTER_PORT and NODE_RANK, or torchrun or srun.
        strategy: what several processes share: batches alone ("ddp"), or weights, gradients and the optimizer's numbers as well ("fsdp"), for
            models that are too large for one device.
        workers: processes that load images.
        seed: seed of weights, order, augmentation, dropout and noise.
        evaluate_every: epochs between two evaluations.
        checkpoint_minutes: minutes between two checkpoints within an epoch, from which a run that was stopped goes on; the end of an epoch
            is kept in any case, unless epochs take seconds.
        train_split: split to train on.
        val_split: split to evaluate on.
        masks: what a model with masks learns: "instances" (objects with outlines) or "panoptic" (all segments, stuff included). With "panoptic",
            a model without masks learns the boxes of all segments, as the first step towards their masks.
        orientation: whether pictures with an EXIF orientation were annotated as "stored" or as "shown"; "auto" finds out. For COCO and
            Pascal VOC.
        stretch_16bit: whether 16-bit grey pictures are stretched from their darkest to their brightest value.
        watch: "convergence" for more figures after every epoch, for each decoder layer, of a few training images: how many objects are matched to
            another query than before, how sparse attention is, how far from the objects it and the references are, how many queries are used.
        loggers: where else losses and figures go, besides log.csv and TensorBoard: wandb, mlflow.
    """

    variant: str
    data: str
    output: str | None = None
    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    patience: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    lr: float | None = None
    backbone_lr: float | None = None
    scale_lr: bool = False
    layer_decay: float | None = None
    rates: dict[str, float] = field(default_factory=dict)
    weight_decay: float | None = None
    gradient_clip: float | None = None
    schedule: Literal["step", "cosine", "flat-cosine"] | None = None
    drop_after: float | None = None
    warmup_steps: int | None = None
    ema: float | None = None
    repeat_rare: float | None = None
    short_side: int | None = None
    long_side: int | None = None
    augmentation: PolicyName | None = None
    flip: float | None = None
    vertical_flip: float | None = None
    crop: bool | None = None
    multi_scale: bool | None = None
    weights: str | None = None
    backbone_weights: str | None = None
    queries_from: str | None = None
    detector_from: str | None = None
    supervision: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    memory_probe: bool = False
    precision: Literal["float32", "bf16"] = "float32"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    workers: int | None = None
    seed: int = 0
    evaluate_every: int = 1
    checkpoint_minutes: float = 5.0
    train_split: str = "train"
    val_split: str = "val"
    masks: Literal["instances", "panoptic"] | None = None
    orientation: Literal["auto", "stored", "shown"] = "auto"
    stretch_16bit: bool = False
    watch: Literal["convergence"] | None = None
    loggers: list[str] = field(default_factory=list)
