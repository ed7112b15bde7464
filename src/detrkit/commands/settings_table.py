"""One variant as `detrkit models VARIANT` shows it: settings with their meaning, recipe, preprocessing, published weights."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import TYPE_CHECKING, Any

from detrkit.terminal import add_texts, narrow_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from detrkit.cards import Source, Variant

_OPTIONS = {
    "epochs": "--epochs",
    "batch_size": "--batch-size",
    "learning_rate": "--lr",
    "backbone_learning_rate": "--backbone-lr",
    "weight_decay": "--weight-decay",
    "gradient_clip": "--gradient-clip",
    "schedule": "--schedule",
    "drop_after": "--drop-after",
    "warmup_steps": "--warmup-steps",
    "augmentation": "--augmentation",
    "short_side": "--short-side",
    "long_side": "--long-side",
}


def show_variant(name: str, variant: Variant, parameters: int, console: Console) -> None:
    """Prints everything that is known about a variant.

    Args:
        name: the variant's.
        variant: what the catalog says.
        parameters: how many it has.
        console: where it is printed.
    """
    console.print(f"{name}, of the family {variant.family}, with {parameters:,} parameters")
    console.print(_origin(variant.source), soft_wrap=True)
    settings = "Settings: NAME is set by --settings.NAME, class_count by the data set"
    for table in (
        _table(settings, variant.config),
        _table("Recipe, with options of `detrkit train`", variant.recipe),
        _table("Preprocessing, with options of `detrkit train`", variant.preprocessing),
    ):
        console.print("", table, sep="\n")
    console.print()
    for sentence in variant.exceptions.values():
        console.print(f"To know: {sentence}")
    console.print("Published weights:" if variant.weights else "There are no published weights.")
    for weights in variant.weights:
        quality, masks = weights.panoptic_quality, weights.mask_ap
        figures = f"AP {weights.ap:.3f}" + ("" if masks is None else f", mask AP {masks:.3f}")
        figures += "" if quality is None else f", PQ {quality:.3f}"
        tag = f", {weights.tag}" if weights.tag else ""
        console.print(f"  {weights.address} ({figures}, {weights.licence}{tag})", soft_wrap=True)
    from detrkit.checkpoints.published import imagenet_offer

    backbone = imagenet_offer(str(variant.config.backbone))
    if backbone is not None:
        console.print(f"Of the backbone: {backbone.address} ({backbone.licence})", soft_wrap=True)
    for result in variant.results:
        console.print(f"Published without weights: AP {result.ap:.3f}{f', {result.tag}' if result.tag else ''}")


def _origin(source: Source | None) -> str:
    if source is None:
        return "The model is detrkit's own."
    licence = "no stated licence" if source.licence is None else source.licence
    return f"Authors' code: https://github.com/{source.repository} at {source.commit} ({licence}); paper: arXiv:{source.paper}"


def meanings(kind: type) -> dict[str, str]:
    """What the fields of a dataclass mean, from the `Attributes` of its docstring and of those of its bases, whose words count less."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        text = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")[2]
        attributes = re.split(r"\n\n|\n(?=\S)", text, maxsplit=1)[0]
        for entry in re.split(r"\n(?=    \S)", "\n" + attributes):
            name, colon, words = entry.strip().partition(": ")
            if colon:
                found[name] = " ".join(words.split())
    return found


def _table(title: str, values: Any) -> Table:
    table, known = narrow_table(title), meanings(type(values))
    table.add_column("name", no_wrap=True)
    add_texts(table, "value", "meaning")
    for entry in dataclasses.fields(values):
        option = f"\n{_OPTIONS[entry.name]}" if entry.name in _OPTIONS else ""
        table.add_row(f"{entry.name}{option}", _shown(getattr(values, entry.name)), known.get(entry.name, ""))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
