"""`detrkit models`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.commands.values import VariantText

if TYPE_CHECKING:
    from rich.console import Console


def models(variant: VariantText = None) -> None:
    """List everything that can be built, with the authors' published AP on COCO val2017 if there is one; or show all about one variant.

    Args:
        variant: show every setting of this one with its value and meaning, its recipe, preprocessing and published weights.
    """
    from detrkit.terminal import terminal

    if variant is None:
        _list(terminal())
        return
    from detrkit.models.listing import check_name

    check_name(variant)
    from detrkit.commands.settings_table import show_variant
    from detrkit.models.catalog import find_variant

    show_variant(variant, find_variant(variant), terminal())


def _list(console: Console) -> None:
    from rich.table import Column, Table

    from detrkit.models.listing import listed_variants

    table = Table(
        Column("variant", no_wrap=True),
        *("backbone", "queries", "AP"),
        caption="AP: published, COCO val2017",
        caption_justify="left",
    )
    variants = listed_variants()
    for name, variant in variants.items():
        table.add_row(name, variant.backbone, str(variant.queries), "-" if variant.ap is None else f"{variant.ap:.3f}")
    console.print(table)
    console.print("Published weights:")
    for name, variant in variants.items():
        for address, licence, tag in variant.weights:
            console.print(f"  {name:38}{address} ({licence}{f', {tag}' if tag else ''})", soft_wrap=True)
    exceptions = [(name, sentence) for name, variant in variants.items() for sentence in variant.exceptions]
    if exceptions:
        console.print("To know:")
        width = max(len(name) for name, _ in exceptions)
        for name, sentence in exceptions:
            console.print(f"  {name:{width}}  {sentence}", soft_wrap=True)
