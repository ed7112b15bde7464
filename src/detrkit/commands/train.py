"""`detrkit train`."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_type_hints

from cyclopts import Parameter


def train(
    variant: str | None = None,
    *,
    data: str | None = None,
    output: str | None = None,
    resume: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int | None = None,
    lr: float | None = None,
    backbone_lr: float | None = None,
    weight_decay: float | None = None,
    gradient_clip: float | None = None,
    schedule: Literal["step", "cosine"] | None = None,
    drop_after: float | None = None,
    warmup_steps: int | None = None,
    short_side: int | None = None,
    long_side: int | None = None,
    flip: float | None = None,
    vertical_flip: float | None = None,
    crop: bool | None = None,
    multi_scale: bool | None = None,
    backbone_weights: str | None = None,
    settings: Annotated[dict[str, str] | None, Parameter(negative=())] = None,
    precision: Literal["float32", "bf16"] | None = None,
    device: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    evaluate_every: int | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
) -> None:
    """Train a detector on a data set, or go on with a run.

    The run's folder gets the configuration, a log with one line an epoch, the best and the last checkpoint, and a report. What is not
    given follows the variant's own recipe; `detrkit models` lists the variants.

    Args:
        variant: what to train, such as detr-r50.
        data: folder or annotation file of a data set in COCO's layout, or "digits" for the built-in one.
        output: folder of the run; a new one under runs/ unless given.
        resume: folder of a run to go on with; its own options hold, so nothing else may be given.
        epochs: passes over the training images.
        steps: optimizer steps; wins over --epochs.
        batch_size: images for one optimizer step.
        accumulate: forward passes that one step is taken in, to save memory.
        lr: learning rate.
        backbone_lr: learning rate of the backbone.
        weight_decay: of AdamW.
        gradient_clip: largest norm of the gradient.
        schedule: "step" drops the learning rate once, "cosine" lets it fall to zero.
        drop_after: share of the run after which "step" drops.
        warmup_steps: steps over which the learning rate rises from zero.
        short_side: largest short side of an image in pixels.
        long_side: limit of the longer side in pixels.
        flip: probability of mirroring an image; 0 where left and right matter.
        vertical_flip: probability of turning an image upside down, for pictures without an up and down.
        crop: whether half of the images are cut.
        multi_scale: whether images are resized to one of several sizes.
        backbone_weights: file with pretrained weights of the backbone, with torchvision's names.
        settings: settings of the model, such as --settings.queries 300.
        precision: float32, or bf16 for mixed precision.
        device: auto, cpu, cuda, cuda:1 or mps.
        workers: processes that load images.
        seed: of everything random.
        evaluate_every: epochs between two evaluations.
        train_split: split to learn from.
        val_split: split to evaluate on.
    """
    given = {name: value for name, value in locals().items() if value is not None}

    from detrkit.terminal import terminal
    from detrkit.training import train as run

    console = terminal()
    if settings:
        given["settings"] = _typed(variant, settings)
    result = run(**given, console=console)
    if result.evaluation is not None:
        console.print(result.evaluation.table())
    console.print(f"Best model: {result.best}\nReport: {result.folder / 'report.html'}")
    console.print(f"Next: detrkit predict {result.best} IMAGES")


def _typed(variant: str | None, settings: dict[str, str]) -> dict[str, Any]:
    """Texts of the command line in the types of the family's configuration; unknown names are left for it to refuse."""
    from detrkit.errors import ConfigurationError
    from detrkit.models.catalog import find_variant

    if variant is None:
        return dict(settings)
    known, typed = get_type_hints(type(find_variant(variant).config)), {}
    for option, text in settings.items():
        name = option.replace("-", "_")
        kind = known.get(name, str)
        kinds = get_args(kind) or (kind,)  # of `float | None` both
        try:
            typed[name] = _read(text, kinds)
        except ValueError as problem:
            allowed = " or ".join("none" if each is NoneType else each.__name__ for each in kinds)
            raise ConfigurationError(f"--settings.{name} must be of type {allowed}, not '{text}'") from problem
    return typed


def _read(text: str, kinds: tuple[Any, ...]) -> Any:
    if NoneType in kinds and text.lower() == "none":
        return None
    kind = next(each for each in kinds if each is not NoneType)
    return _yes_or_no(text) if kind is bool else kind(text)


def _yes_or_no(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]
