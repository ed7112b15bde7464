"""`detrkit models`."""

from __future__ import annotations


def models() -> None:
    """List everything that can be built, with the authors' published AP on COCO val2017 where there is one."""
    from rich.table import Column, Table

    from detrkit.models.catalog import CATALOG
    from detrkit.terminal import terminal

    console = terminal()
    table = Table(
        Column("variant", no_wrap=True),
        *("backbone", "queries", "AP"),
        caption="AP: published, COCO val2017",
        caption_justify="left",
    )
    for name, line in CATALOG.items():
        published = "-" if line.weights is None else f"{line.weights.ap:.3f}"
        table.add_row(name, line.config.backbone, str(line.config.queries), published)
    console.print(table)
    console.print("Published weights:")
    for name, line in CATALOG.items():
        if line.weights is not None:
            console.print(f"  {name:38}{line.weights.address} ({line.weights.licence})", soft_wrap=True)
