"""`detrkit models`."""

from __future__ import annotations


def models() -> None:
    """List everything that can be built, with the authors' published AP on COCO val2017 if there is one."""
    from rich.table import Column, Table

    from detrkit.models.listing import listed_variants
    from detrkit.terminal import terminal

    console = terminal()
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
