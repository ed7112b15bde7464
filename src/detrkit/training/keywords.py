"""The options of `train` as typed keywords: for type checkers and editors as a TypedDict, for `help()` as a signature."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, get_type_hints

from detrkit.cards import PolicyName
from detrkit.training.training_options import UNLESS_GIVEN, TrainingOptions


class TrainingKeywords(TypedDict, total=False):
    """The fields of `TrainingOptions` but variant and data, none of them required; paths may be given as objects.

    Type checkers read no dataclass as keywords, so the names stand here once more; a test compares the two.
    """

    output: str | Path | None
    epochs: int | None
    steps: int | None
    minutes: float | None
    patience: int | None
    batch_size: int | None
    accumulate: int | None
    lr: float | None
    backbone_lr: float | None
    scale_lr: bool
    layer_decay: float | None
    rates: dict[str, float]
    weight_decay: float | None
    gradient_clip: float | None
    schedule: Literal["step", "cosine", "flat-cosine"] | None
    drop_after: float | None
    warmup_steps: int | None
    ema: float | None
    repeat_rare: float | None
    short_side: int | None
    long_side: int | None
    augmentation: PolicyName | None
    flip: float | None
    vertical_flip: float | None
    crop: bool | None
    multi_scale: bool | None
    weights: str | Path | None
    backbone_weights: str | Path | None
    queries_from: str | Path | None
    detector_from: str | Path | None
    supervision: str | None
    settings: dict[str, Any]
    memory_probe: bool
    precision: Literal["float32", "bf16"]
    device: str
    devices: int
    nodes: int
    strategy: Literal["ddp", "fsdp"]
    workers: int | None
    seed: int
    evaluate_every: int
    checkpoint_minutes: float
    train_split: str
    val_split: str
    masks: Literal["instances", "panoptic"] | None
    orientation: Literal["auto", "stored", "shown"]
    stretch_16bit: bool
    watch: Literal["convergence"] | None
    loggers: list[str]


def with_keywords(function: Callable[..., Any]) -> None:
    """Lets `help()` show every option of a function that takes them as `**options`, with type, default and meaning.

    Args:
        function: its docstring ends its arguments with `**options`.
    """
    hints = get_type_hints(TrainingKeywords)
    fields = {field.name: field for field in dataclasses.fields(TrainingOptions)}
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(fields[name]), annotation=hint)
        for name, hint in hints.items()
    ]
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=[*own, *keywords])  # type: ignore[attr-defined]
    documented = (inspect.getdoc(TrainingOptions) or "").partition("Attributes:\n")[2]
    unless_given = "\n".join(f"    {name}: {words}." for name, words in UNLESS_GIVEN.items())
    function.__doc__ = (
        f"{inspect.getdoc(function)}\n\nOptions:\n{documented}\n\nWhat applies instead of None:\n{unless_given}\n"
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default
